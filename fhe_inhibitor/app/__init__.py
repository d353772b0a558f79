"""The page of `fhe-inhibitor app`: a sentence goes in, and one watches what becomes of it.

reading   which tokens of a text are read; begin here
models    what the page itself knows of a model
engine    the classifier, in a process of its own, one text after the other
run       what is known of a text on its way: steps, remaining time, bytes, the result
panels    that as HTML, each part by a function of its own
page      the page, in Gradio; the only file that imports it
serving   the web server around it: what it answers, and to whom

It imports all but the command line, which alone imports it. The page is the client: it has the
text, the keys and the label. It asks no other host than the one that serves it.
"""
