"""``models.yaml``: what it may say, and what is told about what it may not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from umbel_config.errors import PlanInvalid
from umbel_registry.plan_file import PLAN_FILE, PlanFile, read_plan_file

Read = Callable[[str], PlanFile]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def from_text(text: str) -> PlanFile:
        path = tmp_path / "configs" / "models.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return read_plan_file(path)

    return from_text


def test_everything_that_can_be_said(read: Read, tmp_path: Path) -> None:
    file = read(
        """
        models:
          digits:
            versions:
              "3": ../models/digits-3
              4: {folder: four, accept_batch_variance: true}
            aliases: {production: "3", next: 4}
            route: {"3": 90, 4: 10}
            shadows: {5: 0.05}
            batching: {"3": {max_wait_ms: 2, single_flight: true}}
            retired: {"1": finish, 2: {queued: reroute, to: 3}}
          reader: {}
        """
    )
    digits = file.models["digits"]
    assert digits.versions is not None
    folders = {version: source.folder for version, source in digits.versions.items()}
    assert folders == {"3": tmp_path / "models" / "digits-3", "4": tmp_path / "configs" / "four"}
    assert [source.accept_batch_variance for source in digits.versions.values()] == [False, True]
    assert digits.aliases == {"production": "3", "next": "4"}
    assert digits.route == {"3": 90, "4": 10}
    assert digits.shadows == {"5": 0.05}
    assert digits.policy_of("3") == {"max_wait_ms": 2, "single_flight": True}
    assert digits.retired is not None
    assert [(each.queued, each.to) for each in digits.retired.values()] == [
        ("finish", None),
        ("reroute", "3"),
    ]
    assert file.models["reader"].model_fields_set == set()


def test_the_file_that_comes_with_umbel_names_no_model() -> None:
    assert read_plan_file(ROOT / PLAN_FILE) == PlanFile(models={})


def test_the_example_in_it_is_one(read: Read) -> None:
    lines = (ROOT / PLAN_FILE).read_text().splitlines()
    first = lines.index("# models:")
    example = [line.removeprefix("# ") for line in lines[first:] if line.startswith("# ")]
    digits = read("\n".join(example)).models["digits"]
    assert None not in dict(digits).values()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PlanInvalid, match=r"nothing\.yaml does not exist.*configs/models\.yaml"):
        read_plan_file(tmp_path / "nothing.yaml")


@pytest.mark.parametrize("word", ["1.10", "010", "0x10", "1_000", "1:30", "yes", "2025-06-01", "~"])
def test_versions_that_yaml_reads_as_something_else_need_quotes(read: Read, word: str) -> None:
    with pytest.raises(PlanInvalid, match=rf"line 3: .*quotes, \"{word}\""):
        read(f"models:\n  digits:\n    route: {{{word}: 1}}\n")


@pytest.mark.parametrize("word", ["1.10", "010", "1_000", "yes", "2025-06-01", "4"])
def test_in_quotes_they_are_what_they_are(read: Read, word: str) -> None:
    digits = read(f'models: {{digits: {{route: {{"{word}": 1}}}}}}').models["digits"]
    assert digits.route == {word: 1}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "expected the key models:"),
        ("- digits", "expected the key models:"),
        ("models:", r"models: nothing stands here: write \{\}"),
        ("modles: {}", "modles: unknown key"),
        ("models: {digits: {aliases: {p: 1}}", "line 1: expected ',' or '}'"),
        ("models: {digits: }", r"models\.digits: expected keys, or \{\}"),
        ("models: {Digits!: {}}", "models.Digits!: String should match"),
        ("models: {digits: {alias: {}}}", r"models\.digits\.alias: unknown key"),
        ("models: {digits: {aliases: }}", r"models\.digits\.aliases: nothing stands here"),
        ("models: {digits: {aliases: {p: 1.10}}}", r"models\.digits\.aliases\.p: .*quotes"),
        ("models: {digits: {aliases: {p: true}}}", r"models\.digits\.aliases\.p: .*quotes"),
        ("models: {digits: {aliases: {p: latest}}}", r"digits\.aliases\.p: \"latest\" always"),
        ("models: {digits: {aliases: {'3': '4'}}}", r"digits\.aliases\.3: String should match"),
        ("models: {digits: {aliases: {[3]: 4}}}", "line 1: a key is a word"),
        ("models: {digits: {route: {3: 1, '3': 2}}}", "line 1: 3 stands there twice"),
        ("models: {digits: {route: {}}}", r"models\.digits: route: needs a version"),
        ("models: {digits: {route: {3: 0}}}", r"models\.digits: route: needs a version"),
        ("models: {digits: {route: {3: -1}}}", r"digits\.route\.3: Input should be greater"),
        ("models: {digits: {route: {3: .inf}}}", r"digits\.route\.3: "),
        ("models: {digits: {shadows: {3: 0.1}}}", "shadows: are part of a route"),
        ("models: {digits: {route: {3: 1}, shadows: {4: 2}}}", r"digits\.shadows\.4: Input"),
        ("models: {digits: {route: {3: 1}, shadows: {3: 1}}}", "shadows.3: the route has"),
        ("models: {digits: {versions: {3: 5}}}", r"digits\.versions\.3: expected a word, or keys"),
        ("models: {digits: {batching: {3: {max_wait: 5}}}}", r"batching\.3\.max_wait: unknown"),
        ("models: {digits: {batching: {3: {max_queue: 0}}}}", r"batching\.3\.max_queue: Input"),
        ("models: {digits: {retired: {3: away}}}", r"retired\.3\.queued: Input should be 'finish'"),
        ("models: {digits: {retired: {3: {queued: fail, to: 4}}}}", r"retired\.3: to: goes with"),
        ("models: {digits: {retired: {3: fail}, route: {3: 1}}}", "retired.3: the route needs"),
        ("models: {digits: {retired: {3: fail}, aliases: {p: 3}}}", "retired.3: the alias p"),
        (
            "models: {digits: {retired: {3: {queued: reroute, to: 4}, 4: fail}}}",
            "retired.3.to: 4 is retired as well",
        ),
        ("\t", "line 1: found character"),
    ],
)
def test_what_it_may_not_say(read: Read, text: str, what: str) -> None:
    with pytest.raises(PlanInvalid, match=what) as caught:
        read(text)
    assert "models.yaml" in str(caught.value)


def test_sections_can_be_shared_by_anchors(read: Read) -> None:
    file = read(
        """
        models:
          one: &same
            aliases: {production: 3}
          two:
            <<: *same
            route: {3: 1}
        """
    )
    assert file.models["two"].aliases == file.models["one"].aliases == {"production": "3"}
    assert file.models["two"].route == {"3": 1}
