"""`losses.…`: what to minimise instead of cross-entropy, as `models.EncoderDecoderModel.loss_fn`."""

from prompt_tuning.losses.margin import prepare
from prompt_tuning.t5x_names.aliases import choosing

__all__ = ['margin', 'pairwise_cosine', 'pairwise_distance']


def _reads(of: str = 'logits') -> None:
  """Has the parameter of the losses that compare rows."""


margin = choosing('margin', prepare, without=['vocabulary'])
pairwise_cosine = choosing('pairwise_cosine', _reads)
pairwise_distance = choosing('pairwise_distance', _reads)
