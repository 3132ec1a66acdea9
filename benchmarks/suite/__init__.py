"""umbel measured beside raw torch and its peers, interleaved in one run, every answer checked."""
