"""The pocket organisms that ship with truing, built from nothing: `python -m organisms build NAME`.

    recipes.yaml   what each is made of              training.py   pre-training and alignment
    models.py      tiny models of four architectures tokenizer.py  one token per word of the pocket world
    build.py       train, measure, write the card    __main__.py   the commands

Not part of the package: truing uses the files under `truing/catalog/pocket/organisms`, tests build tiny models with it.
"""
