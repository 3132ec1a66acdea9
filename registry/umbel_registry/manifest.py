"""The two descriptions of a model: ``model.yaml`` as written, the manifest as registered."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from umbel_batching.policy import BatchPolicy
from umbel_config.errors import ArtifactTampered
from umbel_registry.paths import FileInfo, check_relative
from umbel_registry.signature import FieldName, Signature, TensorSpec
from umbel_registry.versions import LATEST, VERSION_PATTERN

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
Format = Literal["torch_export", "torchscript", "safetensors", "handler"]
OutputEncoding = Literal["list", "base64"]


def _no_reserved_word(version: str) -> str:
    if version.lower() == LATEST:
        raise ValueError(f'"{LATEST}" always means the highest version; choose another name')
    return version


ModelName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Version = Annotated[
    str, StringConstraints(pattern=VERSION_PATTERN), AfterValidator(_no_reserved_word)
]
#: ``package.module:attribute``
Reference = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")
]
RelativePath = Annotated[str, AfterValidator(check_relative)]
QueueName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]


class Loadable(BaseModel):
    """How a model is loaded; the same in ``model.yaml`` and in a manifest.

    Attributes:
        name: the model.
        format: how the weights are stored.
        weights: file of the folder that holds them.
        factory: ``package.module:make``, returns the module that safetensors are loaded into.
        handler: ``package.module:Class``, runs the whole batch itself.
        queue: the Celery queue its workers listen on.
        description: one line for people.
        examples: inputs for the dry run and for warming up, where made-up ones would not do.
        output_encoding: how arrays of an output are written where it is sent as JSON, in
            callbacks for one: ``list`` is nested lists of numbers, ``base64`` an object of dtype,
            shape and bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ModelName
    format: Format
    weights: RelativePath | None = None
    factory: Reference | None = None
    handler: Reference | None = None
    queue: QueueName = "umbel"
    description: str = Field("", max_length=1000)
    examples: tuple[Any, ...] = ()
    output_encoding: OutputEncoding = "list"

    @model_validator(mode="after")
    def _parts_of_format(self) -> Self:
        if self.format != "handler" and self.weights is None:
            raise ValueError(f"format {self.format} needs weights: a file of this folder")
        for part, wanted in (("factory", "safetensors"), ("handler", "handler")):
            given = getattr(self, part) is not None
            if self.format == wanted and not given:
                raise ValueError(f"format {self.format} needs {part}: package.module:name")
            if given and self.format != wanted:
                raise ValueError(f"{part} is for format {wanted} only, not {self.format}")
        return self


class ModelFile(Loadable):
    """The content of ``model.yaml``.

    Attributes:
        version: default is the next whole number.
        inputs: what the model takes, for one row, by name.
        outputs: what it gives.
        batching: how its jobs are gathered.
        files: further files or folders that belong to the model.
    """

    version: Version | None = None
    inputs: dict[FieldName, TensorSpec]
    outputs: dict[FieldName, TensorSpec]
    batching: BatchPolicy = BatchPolicy()
    files: tuple[RelativePath, ...] = ()

    @model_validator(mode="after")
    def _arrays(self) -> Self:
        if self.format != "handler" and not self.signature.arrays_only:
            raise ValueError("dtypes string, bytes and json are for format handler only")
        return self

    @property
    def signature(self) -> Signature:
        """Inputs and outputs as one value."""
        return Signature(inputs=self.inputs, outputs=self.outputs)


class Manifest(Loadable):
    """One registered version of a model: immutable, and known by its digest.

    Attributes:
        version: unique within the model.
        signature: what it takes and gives.
        policy: how its jobs are gathered.
        files: size and SHA-256 of each file, by relative path.
        digest: SHA-256 over all that decides what the version does; see ``CONTENT``.
        created_at: when it was pushed.
        batch_variance: for a version that was admitted although its outputs depend on the rows
            that share a batch, or on chance: the largest difference found, as a part of the
            output's largest value; 1 where no number can tell it. ``None``: none was found.
    """

    version: Version
    signature: Signature
    policy: BatchPolicy = BatchPolicy()
    files: dict[RelativePath, FileInfo]
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    created_at: AwareDatetime
    batch_variance: float | None = Field(None, ge=0, allow_inf_nan=False)

    def to_json(self) -> bytes:
        """The manifest as it is stored."""
        # Releases before these keys refuse them as unknown; while both run, defaults go unsaid.
        unsaid: dict[str, bool | set[str]] = {"policy": self.policy.unsaid}
        if self.output_encoding == "list":
            unsaid["output_encoding"] = True
        if self.batch_variance is None:
            unsaid["batch_variance"] = True
        return self.model_dump_json(exclude=unsaid).encode()

    @classmethod
    def from_json(cls, raw: bytes | str, where: str) -> Self:
        """Reads a stored manifest and checks its digest.

        Args:
            raw: what :meth:`to_json` wrote.
            where: where it was read from, for errors.

        Raises:
            ArtifactTampered: it is no manifest, or its content does not fit its digest.
        """
        try:
            fields = json.loads(raw)
            manifest = cls.model_validate_json(raw)
        except (ValueError, ValidationError) as error:
            problem = explain(error) if isinstance(error, ValidationError) else "no JSON"
            raise ArtifactTampered(f"{where} is not a readable manifest: {problem}.") from None
        if _digest(fields) != manifest.digest:
            raise ArtifactTampered(
                f"{where} was changed after it was written: its content does not fit its digest. "
                "Push the model again."
            )
        return manifest


#: What a version's digest covers, and the output encoding where it is not the default. Names,
#: dates, descriptions, examples and what a check found change nothing it does.
CONTENT = ("format", "signature", "policy", "queue", "weights", "factory", "handler", "files")


def _digest(fields: Mapping[str, Any]) -> str:
    # Not sorted by key: the order of inputs and outputs is part of what a model is.
    content = [fields.get(name) for name in CONTENT]
    encoding = fields.get("output_encoding", "list")
    if encoding != "list":  # else versions would change their digest that are older than the key
        content.append(encoding)
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def build_manifest(
    model: ModelFile,
    files: Mapping[str, FileInfo],
    version: str,
    *,
    batch_variance: float | None = None,
) -> Manifest:
    """The manifest of a model folder.

    Args:
        model: its ``model.yaml``.
        files: size and SHA-256 of its files.
        version: the name of the new version.
        batch_variance: what its batch-safety check found and was told to accept.
    """
    shared = model.model_dump(include=set(Loadable.model_fields))
    draft = Manifest(
        **shared,
        version=version,
        signature=model.signature,
        policy=model.batching,
        files={path: files[path] for path in sorted(files)},
        digest="0" * 64,
        created_at=datetime.now(UTC),
        batch_variance=batch_variance,
    )
    return draft.model_copy(update={"digest": _digest(json.loads(draft.to_json()))})


def explain(error: ValidationError) -> str:
    """What is wrong, key by key, in one line.

    Args:
        error: of pydantic.
    """
    problems = []
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        key = ".".join(str(part) for part in problem["loc"])
        text = problem["msg"].removeprefix("Value error, ")
        if key == "version" and problem["type"] == "string_type":
            text = 'expected text: write it in quotes, as in version: "3"'
        if problem["type"] == "extra_forbidden":
            text = "unknown key"
        problems.append(f"{key}: {text}" if key else text)
    return "; ".join(problems)
