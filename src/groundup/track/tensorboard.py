"""TensorBoard event files."""

from groundup.errors import MissingExtraError
from groundup.track.sink import Metrics


class TensorBoardSink:
    """Scalars and sample texts in ``RUN/tensorboard``.

    Raises:
        MissingExtraError: the package tensorboard is not installed.
    """

    def __init__(self, run_dir: str):
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError:
            raise MissingExtraError.for_package("tensorboard", "tensorboard", "--track.tensorboard") from None
        self._writer = SummaryWriter(f"{run_dir}/tensorboard")

    def metrics(self, line: Metrics) -> None:
        for name, value in line.items():
            if name != "step" and value is not None:
                self._writer.add_scalar(name, value, line["step"])

    def sample(self, line: Metrics) -> None:
        self._writer.add_text("sample", line["text"], line["step"])

    def close(self) -> None:
        self._writer.close()
