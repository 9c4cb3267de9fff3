"""A GPU in training: steps as one launch each, and attention that does not plan anew for each shape."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from training.data import Batch

WARM_UP_PASSES = 2
"""Passes before one is recorded: libraries load kernels and take their workspace then."""

IGNORED = -100
"""A label that cross entropy leaves out of its mean, and that has no gradient: torch's own default."""


def avoid_attention_plans() -> None:
    """Switch cuDNN attention off: it plans anew for each shape of a batch, FlashAttention does not."""
    torch.backends.cuda.enable_cudnn_sdp(False)


class StepGraphs:
    """Runs forward and backward of a batch as one launch: a CUDA graph for each width, recorded when it first comes.

    A step of a small model is some thousand kernels, which a GPU finishes sooner than Python launches them. The graphs
    share their memory, as a run leaves nothing there that another one reads.

    Args:
        loss_of: A batch's loss (), computed on the GPU alone: nothing in it waits for a value.
        parameters: What learns.
    """

    def __init__(self, loss_of: Callable[[Batch], torch.Tensor], parameters: Iterable[torch.nn.Parameter]) -> None:
        self._loss_of = loss_of
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._gradients = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._loss = torch.zeros((), device=self._parameters[0].device)
        self._memory = torch.cuda.graph_pool_handle()
        self._recorded: dict[int, tuple[torch.cuda.CUDAGraph, Batch]] = {}  # by width

    def run(self, batch: Batch) -> torch.Tensor:
        """Put a batch's gradients into the parameters.

        Returns:
            Its loss (), float32, without history; the next run overwrites it.

        Raises:
            RuntimeError: The model cannot be recorded.
        """
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient  # Lightning drops gradients before it validates
        rows, width = batch["input_ids"].shape
        if width not in self._recorded or rows > len(self._recorded[width][1]["labels"]):
            self._recorded[width] = self._record(batch)
        graph, inputs = self._recorded[width]
        inputs["labels"][rows:] = IGNORED  # an epoch's last batch is smaller: rows from before stay, and do not count
        for name, value in batch.items():
            inputs[name][:rows] = value
        graph.replay()
        return self._loss

    def _record(self, batch: Batch) -> tuple[torch.cuda.CUDAGraph, Batch]:
        inputs = {name: value.clone() for name, value in batch.items()}
        inputs["attention_mask"][0, -1] = 0  # transformers takes another path with a full mask, but while recording
        graph = torch.cuda.CUDAGraph()
        aside, main = torch.cuda.Stream(), torch.cuda.current_stream()
        # A resumed fit meets a width for the first time where an unbroken one does not: dropout must be the same.
        with torch.random.fork_rng(devices=[self._loss.device]):
            aside.wait_stream(main)
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP_PASSES):
                    self._pass(inputs)
            main.wait_stream(aside)
            with torch.cuda.graph(graph, pool=self._memory):
                self._pass(inputs)
        return graph, inputs

    def _pass(self, inputs: Batch) -> None:
        torch.clear_autocast_cache()  # what is cast before the recording would never be cast again
        torch._foreach_zero_(self._gradients)
        loss = self._loss_of(inputs)
        with torch.autocast("cuda", enabled=False):
            loss.backward()
        self._loss.copy_(loss.detach())
