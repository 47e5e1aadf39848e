"""Bundle: what came out of a run, in one folder that needs nothing else.

    weights.safetensors   the whole model, trunk and head; or what was learnt of it, adapters and head
    golden.safetensors    two inputs and their logits: every load proves that it computes the same
    tokenizer.json        of texts: the tokenizer, as the library tokenizers writes it
    graft.json            task, head, preprocessing, source, plan, metrics, versions, and of each file
                          its hash and size

A bundle is saved atomically and loaded without executing anything from it: the network is built by
graft's own adapters (or the factory of a user's own module) and then filled with the stored tensors.
A folder may come from a stranger, so what it says is checked before it costs anything: value.py is the
bundle itself, manifest.py its files, parts.py what a folder holds, bounds.py which numbers make sense,
loading.py the network. Nothing here knows of training or planning; the plan is kept as plain values.
"""

from graft.bundle.loading import load_bundle, prove
from graft.bundle.machine import provenance
from graft.bundle.manifest import FORMAT, MANIFEST, find_bundle, manifest_digest
from graft.bundle.parts import Parts, read_parts
from graft.bundle.value import Bundle, make_bundle

__all__ = [
    "FORMAT",
    "MANIFEST",
    "Bundle",
    "Parts",
    "find_bundle",
    "load_bundle",
    "make_bundle",
    "manifest_digest",
    "prove",
    "provenance",
    "read_parts",
]
