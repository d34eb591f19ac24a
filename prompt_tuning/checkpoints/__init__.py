"""Formats of files that hold parameters.

Readers of a frozen model (`t5x.T5XCheckpoint`, `huggingface.HuggingFaceFolder`) all have

    path                                 the path, for error messages
    names() -> {name: (shape, dtype)}    the checkpoint's names
    read(name) -> np.ndarray             one array, read on demand

and `loading.load` turns any of them into the stacked parameters of a model. `state` reads and writes files of trained
tensors, `prompt_files` a single prompt.
"""
