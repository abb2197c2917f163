# 18 operations, 2 collectives, not sliced
def backward(
    primals_1: f32[5,8],
    up: f32[16,8],
    down: f32[8,16],
    tangents_1: f32[5,8],
):
    permute_default: f32[8,16] = aten.permute(up, [1, 0])
    # model.py:3: h = up(x)
    mm_default: f32[5,16] = aten.mm(primals_1, permute_default)

    # model.py:4: h = relu(h)
    relu_default: f32[5,16] = aten.relu(mm_default)
    permute_default_1: f32[16,8] = aten.permute(down, [1, 0])

    # model.py:5: y = down(h)
    mm_default_1: f32[5,8] = aten.mm(relu_default, permute_default_1)

    # model.py:6: y = all_reduce(y)
    all_reduce_default: f32[5,8] = _c10d_functional.all_reduce(mm_default_1, 'sum', 'tp')  # launch
    wait_tensor_default: f32[5,8] = _c10d_functional.wait_tensor(all_reduce_default)  # wait

    # model.py:7: return x + y
    add_tensor: f32[5,8] = aten.add.Tensor(primals_1, wait_tensor_default)

    # model.py:5: y = down(h)
    mm_default_2: f32[5,16] = aten.mm(tangents_1, down)
    permute_default_2: f32[8,5] = aten.permute(tangents_1, [1, 0])
    mm_default_3: f32[8,16] = aten.mm(permute_default_2, relu_default)

    # model.py:4: h = relu(h)
    threshold_backward_default: f32[5,16] = aten.threshold_backward(mm_default_2, relu_default, 0)
    permute_default_3: f32[16,5] = aten.permute(threshold_backward_default, [1, 0])

    # model.py:3: h = up(x)
    mm_default_4: f32[16,8] = aten.mm(permute_default_3, primals_1)
    mm_default_5: f32[5,8] = aten.mm(threshold_backward_default, up)
    all_reduce_default_1: f32[5,8] = _c10d_functional.all_reduce(mm_default_5, 'sum', 'tp')  # launch
    wait_tensor_default_1: f32[5,8] = _c10d_functional.wait_tensor(all_reduce_default_1)  # wait

    # model.py:7: return x + y
    add_tensor_1: f32[5,8] = aten.add.Tensor(tangents_1, wait_tensor_default_1)

    return (add_tensor, add_tensor_1, mm_default_4, mm_default_3)
