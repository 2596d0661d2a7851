"""The activations of one layer become one packed, U-centered Gram matrix.

Minibatch CKA [1] sums unbiased HSICs [2] over batches, and the unbiased HSIC is an
inner product of U-centered Gram matrices [3]:

    HSIC_1(K, L) = <U(K), U(L)> / (n (n - 3))

U(K) is symmetric with a zero diagonal. So each layer is packed into one row ``z`` of
about n * n / 2 numbers, and the HSICs of *all* pairs of layers are one matrix product,
``2 * z1 @ z2.T``. Row i of K must be the same example in all layers; nothing here knows
a model or a data set.

    products   ``x @ x.T`` of features, shifted if float32 needs it
    precision  keeps our float32 products in full float32
    buffer     gathers the Gram matrices of one batch, learns how to shift each layer
    packing    U-centers them in groups and packs each into one row
    pairs      multiplies all pairs of layers

References:
    [1] Nguyen, Raghu & Kornblith 2021, https://arxiv.org/abs/2010.15327
    [2] Song et al. 2012, https://jmlr.org/papers/v13/song12a.html
    [3] Szekely & Rizzo 2014, https://arxiv.org/abs/1310.2926
"""
