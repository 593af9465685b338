"""A simulated annotator: is the loop of labelling and training worth it, and which scan should be labelled next?"""
