pub fn forward(y: &mut [f32], x: &[f32], rows: &[u32], hidden: usize) {
    for (y, &row) in y.chunks_exact_mut(hidden).zip(rows) {
        y.copy_from_slice(&x[row as usize * hidden..][..hidden]);
    }
}

pub fn backward(dx: &mut [f32], dy: &[f32], rows: &[u32], hidden: usize) {
    for (dy, &row) in dy.chunks_exact(hidden).zip(rows) {
        for (dx, dy) in dx[row as usize * hidden..][..hidden].iter_mut().zip(dy) {
            *dx += dy;
        }
    }
}
