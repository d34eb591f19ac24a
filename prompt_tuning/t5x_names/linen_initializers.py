"""`linen.initializers.…`: Flax's initializers."""

from flax.linen import initializers

from prompt_tuning.t5x_names.aliases import choosing

__all__ = ['constant', 'glorot_normal', 'glorot_uniform', 'normal', 'ones_init', 'orthogonal', 'truncated_normal',
           'uniform', 'variance_scaling', 'zeros_init']
constant = choosing('constant', initializers.constant)
glorot_normal = choosing('glorot_normal', initializers.glorot_normal)
glorot_uniform = choosing('glorot_uniform', initializers.glorot_uniform)
normal = choosing('normal', initializers.normal)
ones_init = choosing('ones_init', initializers.ones_init)
orthogonal = choosing('orthogonal', initializers.orthogonal)
truncated_normal = choosing('truncated_normal', initializers.truncated_normal)
uniform = choosing('uniform', initializers.uniform)
variance_scaling = choosing('variance_scaling', initializers.variance_scaling)
zeros_init = choosing('zeros_init', initializers.zeros_init)
