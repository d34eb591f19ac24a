"""Formats of files that hold parameters.

Readers of a frozen model (`t5x.T5XCheckpoint`, `huggingface.HuggingFaceFolder`) all have

    path                                 what errors name
    names() -> {name: (shape, dtype)}    the checkpoint's own names
    read(name) -> np.ndarray             one array, read when asked for

and `loading.load` turns any of them into the stacked parameters of a model. `state` holds what training
makes, `prompt_files` reads and writes a prompt by itself.
"""
