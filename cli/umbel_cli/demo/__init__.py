"""``umbel demo``: a real model, real data and every part of umbel at work, in a minute."""
