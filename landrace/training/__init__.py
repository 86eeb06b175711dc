"""Tuning: examples and a decoder go in, an adapter or new weights come out.

`data` reads rows, `examples` turns them into token ids with a loss mask, `packing` lays them out, `loss` computes,
`trainer.tune` runs the loop, `checkpoint` lets it stop and go on.
"""
