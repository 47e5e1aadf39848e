"""What is frozen is computed once: networks split at a stage, and a store of what lower parts make."""
