"""A start that is a linear coder: `coder` fits it to clips in closed form, `reading` says what the network can tell of time, and
`start` writes it into the weights. docs/linear-start.md derives it."""
