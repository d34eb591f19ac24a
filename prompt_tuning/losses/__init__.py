"""Losses: plain functions `(outputs, targets, weights, …) -> (sum, {name: sum})`, one file each.

They return sums, so that microbatches and hosts add up exactly. The reported sums include 'loss' and 'weights'; the
displayed loss is their quotient. A loss that reads further fields of the batch's targets names them in its attribute
`fields`, and gets them after the weights. A loss that is a sum over positions has the attribute `over_positions`: it is
computed for a few of them at a time. A loss over pairs of rows is not a sum over rows; such a function has the
attribute `over_pairs`. A function whose targets can be invalid has `check`, which gets the same arguments on the host.
A function whose keyword arguments users give in another form, such as words instead of token ids, has
`prepare(vocabulary, *, …)`, which returns them.
"""

from prompt_tuning.losses.cross_entropy import cross_entropy, log_likelihood
from prompt_tuning.losses.distillation import distillation
from prompt_tuning.losses.loss import Loss, LossFunction, averages
from prompt_tuning.losses.margin import margin
from prompt_tuning.losses.pairwise_cosine import pairwise_cosine
from prompt_tuning.losses.pairwise_distance import pairwise_distance
from prompt_tuning.losses.registry import LOSSES, make_loss, register_loss
from prompt_tuning.losses.rows import at_first_target, of_rows

__all__ = ['LOSSES', 'Loss', 'LossFunction', 'at_first_target', 'averages', 'cross_entropy', 'distillation',
           'log_likelihood', 'make_loss', 'margin', 'of_rows', 'pairwise_cosine', 'pairwise_distance', 'register_loss']
