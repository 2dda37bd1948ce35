"""Steps 2, 7 and 11: the codecs of the Open Inference Protocol. Sans-IO; tensor bytes travel as views."""
