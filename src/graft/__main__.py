"""``python -m graft``, for torchrun."""

from graft.cli import main

if __name__ == "__main__":
    main()
