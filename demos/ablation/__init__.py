"""What limits a student's accuracy: tokens, capacity, bits, noise, texts or steps, one at a time.

python -m demos.ablation --data FOLDER --sentences FILE

`trials` lists what is changed, `measure` trains and measures a trial, `results` keeps what is
finished, `page` writes it up.
"""
