//! The points at which servers are compared, from one small message at a time to large ones.

#[derive(Clone, Copy, Debug)]
pub struct Point {
    pub id: u8,
    pub connections: usize,
    pub size: usize,
    pub text: bool,
    /// Messages on their way on each connection.
    pub in_flight: usize,
}

const fn point(id: u8, connections: usize, size: usize, text: bool, in_flight: usize) -> Point {
    Point {
        id,
        connections,
        size,
        text,
        in_flight,
    }
}

pub const POINTS: &[Point] = &[
    point(1, 1, 16, true, 1),
    point(2, 64, 16, true, 1),
    point(3, 64, 16, true, 64),
    point(4, 64, 128, true, 16),
    point(5, 64, 1024, true, 16),
    point(6, 16, 16 * 1024, false, 4),
    point(7, 8, 1024 * 1024, false, 1),
];
