"""Images under encryption: a one-layer transformer reads scikit-learn's digits.

    python -m demos.digits --out docs

An image of 8 x 8 pixels is cut into patches, which the client embeds in the clear as it does words;
from there on the stages are those of texts. The inhibitor's student and that of the dot product are
trained, compiled and run alike. Begin with `__main__`; then `measure`, `results` and `page`.
"""
