"""One page of figures for a paper: what a model costs and is worth, each number with its command.

Imports `compile.cost`, `compile.evaluation` and `fhe_inhibitor.runtime`. Begin with `records` (what
the page is made of); then `measure` (client and worker in processes of their own), `collect` (what
goes onto the page) and `page` (Markdown, HTML and plots of one structure).
"""
