"""The LightningModule: a sequence classifier, its loss, its metrics and its optimiser."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torchmetrics import MeanMetric

from scorequeue.logs import fields
from training.cuda import StepGraphs, avoid_attention_plans
from training.data import Batch
from training.metrics import cross_entropy, make_metrics

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

HEAD_PARTS = ("classifier", "pooler", "score", "pre_classifier")
"""Names of the modules that transformers puts between the encoder and the scores."""


class SentenceClassifier(pl.LightningModule):
    """Fit a transformers sequence classifier.

    Args:
        model: Any ``AutoModelForSequenceClassification``.
        lr: Peak learning rate of the encoder.
        head_lr: Peak learning rate of pooler and classifier; None takes ``lr``.
        dropout: Rate of all dropout; None keeps the model's own.
        weight_decay: Of all weights but biases and layer norms.
        warmup: Part of all steps in which the rate rises from 0; it falls linearly to 0 in the rest.
        cuda_graphs: Record steps on a single GPU and replay them (`training.cuda`); False launches
            each kernel by itself.
    """

    _graphs: StepGraphs | None = None

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        lr: float = 1e-4,
        head_lr: float | None = None,
        dropout: float | None = None,
        weight_decay: float = 0.01,
        warmup: float = 0.06,
        cuda_graphs: bool = True,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["model", "cuda_graphs"])
        self.model = model
        self._wants_graphs = cuda_graphs
        avoid_attention_plans()
        if dropout is not None:
            # In the modules and not in the config: the published folder keeps the base model's rate for later fits.
            for part in model.modules():
                if isinstance(part, torch.nn.Dropout):
                    part.p = dropout
        self.val_loss = MeanMetric()
        self.val_metrics = make_metrics(model.config.num_labels, prefix="val_")

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Score token rows.

        Args:
            input_ids: (rows, longest) int64, right-padded.
            attention_mask: (rows, longest), 1 for tokens and 0 for padding.

        Returns:
            Logits (rows, labels).
        """
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    def on_train_start(self) -> None:
        """Prepare graphs where a step is one pass of one process, whose gradients are not scaled."""
        trainer = self.trainer
        if (
            self._wants_graphs
            and self.device.type == "cuda"
            and trainer.world_size == trainer.accumulate_grad_batches == 1
            and trainer.precision in ("32-true", "bf16-mixed")
        ):
            self._graphs = StepGraphs(self._loss_of, self.parameters())

    def on_train_end(self) -> None:
        """Give the graphs' memory back."""
        self._graphs = None

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        """The batch's mean cross entropy, for Lightning to minimise; a share's is weighted (`data.Share`)."""
        loss = self._replay(batch) if self._graphs is not None else None
        if loss is None:
            loss = self._loss_of(batch)
        # Noting a value costs a fifth of what Lightning does in a step.
        is_logged = (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0
        if is_logged or self.trainer.is_last_batch:
            self.log("train_loss", loss, batch_size=len(batch["labels"]), sync_dist="weight" in batch)
        return loss

    def _loss_of(self, batch: Batch) -> torch.Tensor:
        loss = cross_entropy(self(batch["input_ids"], batch["attention_mask"]), batch["labels"])
        return loss * batch["weight"] if "weight" in batch else loss

    def _replay(self, batch: Batch) -> torch.Tensor | None:
        assert self._graphs is not None
        try:
            return self._graphs.run(batch)
        except RuntimeError as error:  # a model that looks at its own values, or no memory left
            reason = str(error).partition("\n")[0]
            log.warning(f"training without CUDA graphs: {reason}", extra=fields("no_cuda_graphs"))
            self._graphs = None
            return None

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Clear gradients before the backward pass; a graph has done so, and has run that pass."""
        if self._graphs is None:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """Run the backward pass, unless a graph has."""
        if self._graphs is None:
            super().backward(loss, *args, **kwargs)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Add a batch to the epoch's loss, correlation and accuracy."""
        logits = self(batch["input_ids"], batch["attention_mask"])  # (rows, labels)
        if batch.get("weight", 1) == 0:
            return  # another process counts this row
        self.val_metrics.update(logits.argmax(-1), batch["labels"])
        self.val_loss.update(cross_entropy(logits, batch["labels"]), weight=len(batch["labels"]))

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's metrics over all rows: a mean of batch correlations would be another figure."""
        # torchmetrics has put the processes' counts together, so their figures are the same: the mean changes nothing.
        self.log_dict({"val_loss": self.val_loss.compute(), **self.val_metrics.compute()}, sync_dist=True)
        self.val_loss.reset()
        self.val_metrics.reset()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the trainer says, with the fused optimiser in bfloat16 too.

        Lightning refuses that pair because a fused step unscales gradients after they were clipped; in bfloat16 nothing
        scales them (Lightning issue 21435).
        """
        if gradient_clip_val and self.trainer.precision == "bf16-mixed" and gradient_clip_algorithm != "value":
            # Of the optimiser: `self.parameters()` walks all modules at each step.
            clipped = [weight for group in optimizer.param_groups for weight in group["params"]]
            torch.nn.utils.clip_grad_norm_(clipped, gradient_clip_val)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW without decay on biases and layer norms, with warm-up and linear decay per step."""
        lr, head_lr = self.hparams.lr, self.hparams.head_lr or self.hparams.lr
        groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}  # each is a launch or more
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                is_head = not set(HEAD_PARTS).isdisjoint(name.split("."))
                decay = self.hparams.weight_decay if parameter.ndim > 1 else 0.0  # not of vectors: biases, layer norms
                groups.setdefault((head_lr if is_head else lr, decay), []).append(parameter)
        optimizer = torch.optim.AdamW(
            [{"params": group, "lr": lr, "weight_decay": decay} for (lr, decay), group in groups.items()],
            fused=True,
        )
        steps = int(self.trainer.estimated_stepping_batches)
        rising = int(self.hparams.warmup * steps)

        def rate(step: int) -> float:
            if step < rising:
                return (step + 1) / (rising + 1)
            return max(0.0, (steps - step) / max(1, steps - rising))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
