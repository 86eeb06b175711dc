"""Evaluation: a model and a task become scores with intervals, a comparison and a report page.

`task` describes what is asked, `evaluate` asks it through the engine, `baseline` answers the same rows without a
language model, `compare` sets several evaluations side by side, `report` writes the page.
"""
