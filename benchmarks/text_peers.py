"""One side of text.py that is a peer's, out of the box: SIDE TRAIN TEST SEED MODEL; prints a row as JSON.

* TF-IDF + logistic regression: scikit-learn, words and pairs of words, defaults of both.
* Hugging Face Trainer: AutoModelForSequenceClassification, default arguments (AdamW 5e-5, linear, 3 epochs,
  batches of 8), padding to the longest of a batch.
* SetFit: SetFitModel and its Trainer, default arguments but one epoch.
* sentence-transformers encode: default arguments, seconds a sentence of a second pass.
"""

from __future__ import annotations

import csv
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def read(path: str) -> tuple[list[str], list[int]]:
    with Path(path).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [int(row["label"] == "positive") for row in rows]


def tf_idf(train: str, test: str, _seed: int, _model: str) -> dict[str, Any]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    (texts, labels), (others, truth) = read(train), read(test)
    began = time.perf_counter()
    found = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    found.fit(texts, labels)
    seconds = time.perf_counter() - began
    return {"accuracy": 100 * found.score(others, truth), "seconds": seconds}


def trainer(train: str, test: str, seed: int, model: str) -> dict[str, Any]:
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    (texts, labels), (others, truth) = read(train), read(test)
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForSequenceClassification.from_pretrained(model, num_labels=2)
    began = time.perf_counter()

    def rows(said: list[str], told: list[int]) -> list[dict[str, Any]]:
        tokens = tokenizer(said, truncation=True)
        return [
            {"input_ids": ids, "labels": label}
            for ids, label in zip(tokens["input_ids"], told, strict=True)
        ]

    with tempfile.TemporaryDirectory() as folder:
        asked = TrainingArguments(folder, seed=seed, save_strategy="no", report_to="none", use_cpu=True)
        runner = Trainer(
            network,
            asked,
            train_dataset=rows(texts, labels),
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        runner.train()
        seconds = time.perf_counter() - began
        logits = runner.predict(rows(others, truth)).predictions
    right = sum(int(row.argmax() == label) for row, label in zip(logits, truth, strict=True))
    return {"accuracy": 100 * right / len(truth), "seconds": seconds}


def setfit(train: str, test: str, seed: int, model: str) -> dict[str, Any]:
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    (texts, labels), (others, truth) = read(train), read(test)
    network = SetFitModel.from_pretrained(model)
    began = time.perf_counter()
    asked = TrainingArguments(num_epochs=1, seed=seed, save_strategy="no", report_to="none")
    Trainer(network, asked, train_dataset=Dataset.from_dict({"text": texts, "label": labels})).train()
    seconds = time.perf_counter() - began
    found = [int(each) for each in network.predict(others)]
    right = sum(one == other for one, other in zip(found, truth, strict=True))
    return {"accuracy": 100 * right / len(truth), "seconds": seconds}


def encode(_train: str, test: str, _seed: int, model: str) -> dict[str, Any]:
    from sentence_transformers import SentenceTransformer

    texts, _ = read(test)
    network = SentenceTransformer(model, device="cpu")
    network.encode(texts)
    began = time.perf_counter()
    network.encode(texts)
    return {"seconds": (time.perf_counter() - began) / len(texts)}


SIDES: dict[str, Callable[[str, str, int, str], dict[str, Any]]] = {
    "TF-IDF + logistic regression": tf_idf,
    "Hugging Face Trainer": trainer,
    "SetFit": setfit,
    "sentence-transformers encode": encode,
}

if __name__ == "__main__":
    import contextlib

    side, train_path, test_path, seed, folder = sys.argv[1:]
    if threads := os.environ.get("OMP_NUM_THREADS"):
        with contextlib.suppress(ImportError):
            import torch

            torch.set_num_threads(int(threads))
    with contextlib.redirect_stdout(sys.stderr):
        row = SIDES[side](train_path, test_path, int(seed), folder)
    print(json.dumps(row))
