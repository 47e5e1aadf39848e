"""One learning rate for everything, from 1e-2 to 1e-5: the curves, and why each fails or works.

    python examples/learning_rates.py [DATA] [--svg curves.svg]     (drawing needs matplotlib)

DATA is a folder with train/CLASS/; without it, scikit-learn's scanned digits.
"""

import argparse
from pathlib import Path

import graft
from graft.demo import make_demo
from graft.records import Validated


def reason(train: list[float], val: list[float]) -> str:
    """Read off the losses after each epoch; those at index 0 are of the solved head, before any step."""
    best = min(val[1:])
    if best > val[0]:
        why = "features destroyed" if min(train[1:]) > val[0] else "pictures learnt by heart"
        return f"fails: {why}; training ends at {train[-1]:.2f}, but validation never gets back"
    if best == val[-1]:
        return f"too slow for {len(val) - 1} epochs: still falling when they are over"
    return f"works: lowest at epoch {val.index(best)}; from there on it overfits"


def main(data: Path | None = None, epochs: int = 10, svg: Path | None = None) -> None:
    flip = data is not None  # a mirrored digit is another sign
    path = str(data or make_demo(Path("runs/digits")).pictures)
    curves = {}
    print("rate  accuracy       loss, on validation data: start → after epoch 1 → end")
    for rate in ("1e-2", "1e-3", "1e-4", "1e-5"):
        options = {"data__path": path, "strategy": f"full:{rate}", "epochs": epochs, "train__flip": flip}
        recipe = graft.read_recipe(None, ["train.schedule=constant", "train.warmup=0"], **options)
        backbone = graft.load_backbone(recipe)
        splits = graft.read_splits(recipe, backbone)
        steps = graft.fit_steps(backbone, splits, graft.make_plan(recipe, backbone, splits))
        curve = [vars(record) for record in steps if isinstance(record, Validated)]
        train, val, right = ([each[name] for each in curve] for name in ("train_loss", "loss", "accuracy"))
        losses = f"{val[0]:.2f} → {val[1]:.2f} → {val[-1]:.2f}"
        print(f"{rate}  {right[0]:.1%} → {right[-1]:.1%}  {losses}  {reason(train, val)}")
        curves[rate] = {"training loss": train, "validation loss": val}
    if svg is not None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3.6), layout="constrained")
        for axes, title in zip(figure.subplots(1, 2, sharey=True), curves["1e-2"], strict=True):
            for rate, both in curves.items():
                axes.semilogy(both[title], label=rate)
            axes.set(title=title, xlabel="epoch")
        axes.legend()
        figure.savefig(svg)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--svg", type=Path)
    main(**vars(parser.parse_args()))
