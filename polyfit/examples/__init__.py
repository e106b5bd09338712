"""Complete small programs, each run by ``python -m polyfit.examples.NAME``.

fit
    sin(x) by a module, torch.optim and a DataLoader; two lines turn the eager model into polyfit's.
fully_connected
    A network on images of digits, with polynomials in place of its activations, compared with ReLU and SiLU.
convolutional
    The same with convolutions, and a polynomial for each channel.
kan
    The same with layers of polynomials (KAN), and a picture of the functions that they learned.
regression
    Polynomial logistic and Poisson regression, compared with scikit-learn and statsmodels.
registry
    Polynomials by name in a registry of activations, as Hugging Face's models have it, and in nn.Sequential.

Each has a function ``main`` that prints a table and returns the numbers in it. They are plain PyTorch, to be read and
copied. All but ``fit`` need the extra "examples" of the distribution; none downloads anything.
"""
