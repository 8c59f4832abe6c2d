"""Benchmarks of regmeta against physical floors and peers; see README.md in this folder.

`generate` makes the data, `floor` is what the machine itself needs for the same durable work,
`import_layout`, `memory` and `startup` are the programs that compare regmeta with its targets.
"""
