"""DM2-AT on tensors: Algorithm 2 of Song et al. (Entropy 27(11):1159, 2025), without Ray and without files.

====  ==========================================  =======================================================
Step  What it does                                Where
====  ==========================================  =======================================================
1     features h(x) of the unlabeled pool         ``dm2at_ray.models`` (``Classifier.features``)
2     neighbours under D = L1 + L2                ``distance.py`` (the search is ``dm2at_ray.neighbors``)
3     MixUp with each neighbour, μ ~ Beta(α, α)   ``mixup.py``
4     uncertainty of the mixtures, the B highest  ``uncertainty.py``, ``acquisition/``
5     adversarial twins of the queries            ``attacks.py``
6, 7  labels, and the sets they move between      ``dm2at_ray.pool``, ``dm2at_ray.store``
8     λ clean + (1 − λ) adversarial loss          ``losses.py`` (the loop is ``dm2at_ray.training``)
====  ==========================================  =======================================================

Every random number comes from ``counter_rng.py``.
"""
