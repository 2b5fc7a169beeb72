"""A checkpoint as one GGUF file: tensor by tensor from mapped files, building no network.

The file grows under another name beside the target, with a record of the tensors that are finished: the same command
goes on where a killed one stopped.
"""

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path

from torch import Tensor

from gorae.checkpoint.convert_record import Record, recorded, require_new
from gorae.checkpoint.convert_source import opened
from gorae.checkpoint.folder import flush
from gorae.checkpoint.fp8 import is_scales, read_widened
from gorae.checkpoint.gguf_write import GgufPlan, plan_gguf, write_planned
from gorae.checkpoint.shards import Tensors
from gorae.observe import Progress, log, progress


class _Widened(Mapping[str, Tensor]):
    """Tensors by published name, in float32 when asked for; what is asked for is counted."""

    def __init__(self, tensors: Tensors, job: Progress) -> None:
        self._tensors, self._job = tensors, job
        self._names = dict.fromkeys(name for name in tensors if not is_scales(tensors, name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> Tensor:
        self._job.advance()
        return read_widened(self._tensors, name).float()


def convert_to_gguf(source: str | PathLike[str], target: str | PathLike[str], to: str) -> None:
    """Write a folder or a GGUF file, with its tokenizer and chat template, as the new file `target`.

    `to` is f16, q8_0 or q4_0. Raises ValueError for a source that is not whole, a target that exists, and what GGUF can
    not hold, OSError if the disk is full; the source is never written to, and finished tensors wait for the same call
    to go on.
    """
    source, target = Path(source).resolve(), Path(target).resolve()
    require_new(source, target)
    if target.suffix != ".gguf":
        raise ValueError(f"{target} must be a file whose name ends in .gguf; give another")
    with opened(source) as checkpoint:
        published = {key: value for key, value in checkpoint.published.items() if key != "quantization_config"}
        tokenizer, template = checkpoint.tokenizer()
        plan = plan_gguf(published, tokenizer, to=to, chat_template=template)
        request = {"to": f"gguf-{to}", "header": hashlib.sha256(plan.header).hexdigest()}
        with recorded(source, target, request) as record:
            file = record.folder / target.name
            _write(checkpoint.tensors, file, plan, record)
            file.rename(target)
            flush(target.parent)
            shutil.rmtree(record.folder)


def _write(tensors: Tensors, file: Path, plan: GgufPlan, record: Record) -> None:
    length = file.stat().st_size if file.is_file() else 0
    finished = {planned.name for planned in plan.tensors if planned.name in record and planned.end <= length}
    record.require_space(plan.num_bytes - length)
    if finished:
        log(f"{len(finished)} of {len(plan.tensors)} tensors are there from an earlier attempt")
    parts = {planned.name: len(planned.parts) for planned in plan.tensors}  # an expert is a part
    done = sum(parts[name] for name in finished)
    with progress("convert", sum(parts.values()), done=done, unit="tensor") as job:
        write_planned(file, plan, _Widened(tensors, job), finished=finished, finish=record.finish)
