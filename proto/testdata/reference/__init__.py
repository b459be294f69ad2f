"""The formats of SPEC.md in plain Python, written from the text and not from the Rust code."""
