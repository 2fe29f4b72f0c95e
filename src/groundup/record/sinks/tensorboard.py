"""TensorBoard event files."""

import time
from pathlib import Path
from typing import Any

from groundup.display.display import Metrics
from groundup.errors import MissingExtraError


class TensorBoardSink:
    """Scalars and sample texts in ``RUN/tensorboard``, written by TensorBoard's own package, without torch.

    Raises:
        MissingExtraError: the package tensorboard is not installed.
    """

    def __init__(self, run_dir: Path):
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.plugins.scalar.summary import scalar_pb
            from tensorboard.plugins.text.summary import text_pb
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            raise MissingExtraError.for_package("tensorboard", "tensorboard", "--track.tensorboard") from None
        self._event, self._scalar, self._text = Event, scalar_pb, text_pb
        self._writer = EventFileWriter(str(run_dir / "tensorboard"))

    def metrics(self, line: Metrics) -> None:
        for name, value in line.items():
            if name != "step" and value is not None:
                self._add(line["step"], self._scalar(name, value))

    def sample(self, line: Metrics) -> None:
        self._add(line["step"], self._text("sample", line["prompt"] + line["text"]))

    def close(self) -> None:
        self._writer.close()

    def _add(self, step: int, summary: Any) -> None:
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=summary))
