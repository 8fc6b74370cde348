"""The shape of a record: what every reader of records may rely on. Keys that are not named here may stand beside the others."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal, NotRequired

import numpy as np
from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, with_config
from typing_extensions import TypedDict

from densebench.files.stored_json import LARGEST, Count, Flag, Integer, Number, ShapeError, Text, Word, check, field, short
from densebench.results.score import OWN_KEYS, Direction

ID = r"^[0-9a-f]{4,64}$"
Digest = Annotated[str, StringConstraints(strict=True, pattern=ID)]
"""4 to 64 hexadecimal digits. An id names a file and a folder of pictures, so it can hold nothing else."""
Triple = Annotated[list[Number], Field(min_length=3, max_length=3)]
OPEN = ConfigDict(extra="allow", strict=True)
REPLICATES = 1_000_000  # bootstrap values of a score at most


@with_config(OPEN)
class Backbone(TypedDict):
    """The backbone that is scored."""

    spec: Text
    digest: Word
    arch: Text
    dim: Count
    stride: Count
    name: NotRequired[Text]
    layer: NotRequired[Text]
    pos_embed: NotRequired[Text]
    debias: NotRequired[Count]
    upsample: NotRequired[Text]
    params: NotRequired[Count | None]
    origin: NotRequired[Text]
    recognised: NotRequired[Text]
    kind: Text
    mean: Triple
    std: Triple
    code: Text


@with_config(OPEN)
class Headline(TypedDict):
    """The scores that tables show."""

    metric: Text
    variant: Text


@with_config(OPEN)
class Settings(TypedDict):
    """A protocol's settings. A record may hold any; these are the ones that captions mention, whatever the protocol.

    `image_size`, `crop_size` or `short_side`, the first that is there, is the side in px of the images that a backbone sees.
    With `comparable` false the caption gives `iterations`, and with more than one it gives `validations`.
    """

    comparable: NotRequired[Flag]
    chosen_with_labels: NotRequired[list[Text] | None]
    image_size: NotRequired[Any]
    crop_size: NotRequired[Any]
    short_side: NotRequired[Any]
    iterations: NotRequired[Any]
    validations: NotRequired[Any]


@with_config(OPEN)
class Protocol(TypedDict):
    """The protocol of the record."""

    name: Text
    preset: Text
    version: Integer
    settings: Settings
    headline: Headline
    decides: NotRequired[dict[Text, Any]]
    code: Text


@with_config(OPEN)
class Dataset(TypedDict):
    """The data set that is scored on."""

    name: Text
    split: Text
    images: Count
    digest: Word
    limit: Count | None
    train_split: NotRequired[Text]
    train_images: NotRequired[Count]
    code: Text
    official_images: Count | None
    official_train_images: Count | None
    left_out: NotRequired[Count]
    pairs: NotRequired[Count]
    official_pairs: NotRequired[Count | None]


@with_config(OPEN)
class Score(TypedDict):
    """One number. Every other key is an axis."""

    metric: Text
    variant: Text
    value: Number
    unit: Text
    ci95: NotRequired[Annotated[list[Number], Field(min_length=2, max_length=2)] | None]
    per_class: NotRequired[dict[Text, Number | None] | None]
    bootstrap: NotRequired[Annotated[str, StringConstraints(strict=True, max_length=6 * REPLICATES)]]
    details: NotRequired[dict[Text, Any]]
    direction: Direction
    digits: Annotated[int, Field(strict=True, ge=0, le=9)]
    fraction: NotRequired[Annotated[float, Field(strict=True, gt=0, le=LARGEST)]]
    seed: NotRequired[Integer | None]


@with_config(OPEN)
class Owner(TypedDict):
    """The run that is writing the record, or was killed while it did."""

    id: Word
    pid: Count
    host: Text


@with_config(OPEN)
class Run(TypedDict):
    """How the record was last written: command, device, runtime options, times."""

    owner: NotRequired[Owner]
    was_complete: NotRequired[Flag]
    rehearsal: NotRequired[Flag]
    """Whether a rehearsal of a table made it (`densebench run --set`); such records enter no table."""

    command: NotRequired[Text]
    started: NotRequired[Text]
    device: NotRequired[Text]
    precision: NotRequired[Text]
    runtime: NotRequired[dict[Text, Any]]
    means: NotRequired[dict[Text, Any]]
    """The key of `runtime` in older records."""
    scored_points: NotRequired[Count]
    """How many points the run scored: the costs below are those of these points."""
    seconds: NotRequired[dict[Text, Number]]
    images_per_second: NotRequired[dict[Text, Number]]
    tflop_per_second: NotRequired[dict[Text, Number]]
    host_memory_mb: NotRequired[Number | None]
    device_memory_mb: NotRequired[Number | None]
    energy_joules: NotRequired[Number | None]
    peak_memory_mb: NotRequired[Number | None]
    """In older records: the peak memory of the GPU, or of the host where no GPU was used."""


@with_config(OPEN)
class Record(TypedDict):
    """A record as it stands on disk."""

    schema: Annotated[int, Field(strict=True, ge=1)]
    id: Digest
    status: Literal["running", "complete", "failed"]
    group: Digest
    backbone: Backbone
    protocol: Protocol
    dataset: Dataset
    scores: list[Score]
    run: Run
    code: dict[Text, Any]
    environment: dict[Text, Text]


SHAPE = TypeAdapter(Record)


def check_record(record: Any) -> None:
    """Check that JSON values are a record; raise ShapeError, which names the field, where they are not."""
    check(record, SHAPE)
    seen: dict[Any, int] = {}
    lengths: dict[Any, int] = {}
    for index, score in enumerate(record["scores"]):
        _check_score(score, ("scores", index))
        what = (score["metric"], score["variant"])
        axes = frozenset((name, value) for name, value in score.items() if name not in OWN_KEYS)
        if (first := seen.setdefault((what, axes), index)) != index:
            raise ShapeError(f"has scores.{index} of the same metric, variant and axes as scores.{first}")
        if score.get("bootstrap"):
            length = _replicates(score["bootstrap"], index)
            if lengths.setdefault(what, length) != length:
                raise ShapeError(f"has scores.{index}.bootstrap of {length} values where others have {lengths[what]}")


def _check_score(score: dict[str, Any], path: tuple[Any, ...]) -> None:
    """Check the axes, and what follows from the unit."""
    for name, value in score.items():
        if name not in OWN_KEYS and not isinstance(value, str | int | float | None):
            raise ShapeError(f"has {field((*path, name))} {short(value)}: an axis should be a number, a text or null")
    ends = score.get("ci95") or ()
    if list(ends) != sorted(ends):
        raise ShapeError(f"has {field((*path, 'ci95'))} {short(ends)}: it should go upwards")
    for name, value in (("value", score["value"]), *(("ci95", end) for end in ends)):
        if score["unit"] == "%" and not 0 <= value <= 100:
            raise ShapeError(f"has {field((*path, name))} {short(value)}: % should be from 0 to 100")


def _replicates(text: str, index: int) -> int:
    """Return how many bootstrap values a text holds. NaN stands for a draw without any class."""
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")
    except ValueError as error:
        raise ShapeError(f"has scores.{index}.bootstrap that is not base64 of float32 ({error})") from error
    if (np.abs(values) > LARGEST).any():
        raise ShapeError(f"has scores.{index}.bootstrap with values that are not finite")
    return len(values)
