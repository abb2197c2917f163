# 11 operations, 3 collectives, not sliced
def backward(
    tangents_0: f32[6,4],
    tangents_1: f32[6,4],
    tangents_2: f32[6,4],
    query: f32[4,8],
    key: f32[4,8],
    value: f32[4,8],
):
    # model.py:3: query(x)
    mm_default: f32[6,8] = aten.mm(tangents_0, query)

    # model.py:4: key(x)
    mm_default_1: f32[6,8] = aten.mm(tangents_1, key)

    # model.py:5: value(x)
    mm_default_2: f32[6,8] = aten.mm(tangents_2, value)
    all_reduce_default: f32[6,8] = _c10d_functional.all_reduce(mm_default, 'sum', 'tp')  # launch
    wait_tensor_default: f32[6,8] = _c10d_functional.wait_tensor(all_reduce_default)  # wait
    all_reduce_default_1: f32[6,8] = _c10d_functional.all_reduce(mm_default_1, 'sum', 'tp')  # launch
    wait_tensor_default_1: f32[6,8] = _c10d_functional.wait_tensor(all_reduce_default_1)  # wait
    all_reduce_default_2: f32[6,8] = _c10d_functional.all_reduce(mm_default_2, 'sum', 'tp')  # launch
    wait_tensor_default_2: f32[6,8] = _c10d_functional.wait_tensor(all_reduce_default_2)  # wait
    add_tensor: f32[6,8] = aten.add.Tensor(wait_tensor_default, wait_tensor_default_1)
    add_tensor_1: f32[6,8] = aten.add.Tensor(add_tensor, wait_tensor_default_2)

    return (add_tensor_1,)
