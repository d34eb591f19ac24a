"""What the backward pass computes again: no product of matrices, wherever a stack has its norms."""

import jax
import pytest
from programs_of_jax import equations
from test_families import FAMILIES

from prompt_tuning.models import loading, stack
from prompt_tuning.prompts import Prompt, PromptTuning
from prompt_tuning.rows import layouts


def products_of_gradient(model):
  layout, method = model.layout(layouts.Layout(3)), PromptTuning(Prompt(3))
  lengths = dict.fromkeys(('encoder', 'decoder') if 'encoder' in model.params else ('decoder',), 6)
  batch = layouts.assemble([[layout.example([5, 6], [7, 1])]], lengths)

  def loss(trained):
    conditioning = method.condition(trained, model.module.facts())
    return model.module.apply({'params': model.params}, batch, conditioning).sum()

  traced = jax.make_jaxpr(jax.grad(loss))(method.initialise(jax.random.key(0), model))
  return sum(each.primitive.name == 'dot_general' for each in equations(traced.jaxpr))


# Norms before, after the product, and after the sum; of queries and keys, by head and over the whole width.
@pytest.mark.parametrize(('family', 'again'), [
  ('gpt2_bare', 0), ('gpt_neox', 0), ('opt_after', 0), ('gemma3_linear', 0), ('gemma4_equal', 0), ('olmo2', 0),
  ('t5_v11', 0), ('t5gemma2', 0),
  ('gemma2_odd', 3),  # capped logits, of which only the weights are kept
  ('qwen3_moe', 2),  # the last product of each token's experts, of the prompt and of the rows
])
def test_the_backward_pass_makes_no_product_again(family, again, monkeypatch):
  model = loading.load_model(str(FAMILIES / family))
  found = products_of_gradient(model)
  everything = {**stack.REMATERIALISE, 'none': jax.checkpoint_policies.everything_saveable}
  monkeypatch.setattr(stack, 'REMATERIALISE', everything)
  assert found - products_of_gradient(model) == again
