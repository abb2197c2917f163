# 5 operations, 0 collectives, not sliced
def graph(
    query: f32[32,256,8,64],
    places: f32[256,1,1],
    steps: f32[64],
):
    # model.py:3: f = 10000 ** steps
    pow_1: f32[64] = aten.pow.Scalar(10000.0, steps)

    # model.py:4: a = places * f
    mul: f32[256,1,64] = aten.mul.Tensor(places, pow_1)

    # model.py:5: c = a.cos()
    cos: f32[256,1,64] = aten.cos(mul)
    materialise_default: f32[256,1,64] = domino_compile.materialise(cos)

    # model.py:6: return query * c
    mul_1: f32[32,256,8,64] = aten.mul.Tensor(query, materialise_default)

    return (mul_1,)
