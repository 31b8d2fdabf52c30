"""A training of seconds, for tests of what is learned; what the user runs is ESPnet's trainer."""

import torch

from espnet_ext.model.loss import LossWeights, codec_loss


def train(model, batch, updates, lr, weights=None):
    """Train a model on what `batch()` gives its forward; it is left in eval mode, the last update's statistics come."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=lr, betas=(0.9, 0.98), fused=True)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: min(1.0, 2.5 * (1.004 - update / updates)))
    for _ in range(updates):
        loss = codec_loss(model(*batch()), model.spec.num_codebooks, weights or LossWeights())
        optimizer.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay.step()
    model.eval()
    return loss.stats
