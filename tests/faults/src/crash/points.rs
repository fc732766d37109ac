//! Which steps are tried, in which order: first some from all over, then those between them. So a run that is ended early has seen
//! something of everything.

/// The multiples of `every` below `steps`.
pub fn spread(steps: u64, every: u64) -> Vec<u64> {
    let count = steps.div_ceil(every);
    let mut stride = count.next_power_of_two();
    let mut points: Vec<_> = (0..count).step_by(stride.max(1) as usize).collect();
    while stride > 1 {
        points.extend((stride / 2..count).step_by(stride as usize));
        stride /= 2;
    }
    points.into_iter().map(|point| point * every).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_point_comes_once_and_the_first_ones_are_far_apart() {
        assert_eq!(spread(8, 1), [0, 4, 2, 6, 1, 3, 5, 7]);
        assert_eq!(spread(7, 3), [0, 6, 3]);
        for steps in 0..100 {
            for every in 1..9 {
                let mut points = spread(steps, every);
                points.sort_unstable();
                assert_eq!(points, (0..steps).step_by(every as usize).collect::<Vec<_>>());
            }
        }
    }
}
