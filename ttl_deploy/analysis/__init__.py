"""What a network's layers hold: how alike the features of two networks are, and how well each layer separates classes.

Works on matrices of features, (samples, channels); only `features` imports torch.
"""
