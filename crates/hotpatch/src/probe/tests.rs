//! Probes in real drivers.

use std::{sync::Barrier, time::Duration};

use super::*;
use crate::{
    Gate, Module, Redirect,
    testing::{function, landings, load_with},
    text::Text,
};

/// Functions that use everything that a probe must leave alone.
const SOURCE: &str = "
    #define WHOLE_ __attribute__((noinline, noclone))
    WHOLE_ long many(long a, long b, long c, long d, long e, long f, long g, long h);
    long many(long a, long b, long c, long d, long e, long f, long g, long h)
    { return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h; }
    WHOLE_ double mixed(double a, long b, double c, float d, double e, double f, double g, double h, double i);
    double mixed(double a, long b, double c, float d, double e, double f, double g, double h, double i)
    { return a + b + c * 2 + d * 3 + e * 4 + f * 5 + g * 6 + h * 7 + i * 8; }
    struct big { long words[5]; };
    WHOLE_ struct big large(long a);
    struct big large(long a) { struct big big = {{ a, a + 1, a + 2, a + 3, a + 4 }}; return big; }
    struct pair { long one; long two; };
    WHOLE_ struct pair both(long a);
    struct pair both(long a) { struct pair pair = { a, a * 2 }; return pair; }
    WHOLE_ long deep(long n);
    long deep(long n) { return n == 0 ? 0 : 1 + deep(n - 1); }
    WHOLE_ long last(long n);
    long last(long n) { return n * 3; }
    WHOLE_ long first(long n);
    long first(long n) { return last(n + 1); }
    void *left[5];
    WHOLE_ long leaves(long n);
    long leaves(long n) { if (n) __builtin_longjmp(left, 1); return 5; }
    WHOLE_ long lands(long n);
    long lands(long n) { if (__builtin_setjmp(left)) return 77; leaves(n); return 78; }
";

fn address<T>(function: &Function) -> *const T {
    std::ptr::with_exposed_provenance(function.address)
}

/// The function of this type at its address.
macro_rules! callable {
    ($module:expr, $name:literal, $type:ty) => {{
        let function = function($module, $name);
        #[expect(unsafe_code, reason = "calls code that was changed")]
        // SAFETY: the source above has such a function, and its module is loaded.
        let callable = unsafe { std::mem::transmute::<*const (), $type>(address(&function)) };
        (function, callable)
    }};
}

struct Bench {
    gate: Arc<Gate>,
    ring: Arc<Ring>,
}

impl Bench {
    fn new() -> Self {
        Self { gate: Gate::new(1).unwrap(), ring: Ring::new(1024) }
    }

    fn closed(&self) -> Closed {
        self.gate.close(Duration::from_secs(10)).unwrap()
    }

    fn probe(&self, function: &Function) -> Probe {
        let mut probe = Probe::new(function, Arc::clone(&self.ring)).unwrap();
        probe.apply(&self.closed()).unwrap();
        probe
    }

    fn hits(&self) -> Vec<Hit> {
        let mut hits = Vec::new();
        assert_eq!(self.ring.take(&mut hits), 0);
        hits
    }
}

fn same_as_file(function: &Function) -> bool {
    use sha2::Digest as _;
    let length = usize::try_from(function.size.min(32)).unwrap();
    let bytes = Text::open().unwrap().read(function.address, length).unwrap();
    sha2::Sha256::digest(bytes)[..] == function.hash
}

#[repr(C)]
#[derive(Debug, Eq, PartialEq)]
struct Big([i64; 5]);

#[repr(C)]
#[derive(Debug, Eq, PartialEq)]
struct Pair(i64, i64);

#[test]
fn arguments_result_and_time_are_seen_and_nothing_is_changed() {
    type Many = extern "C" fn(i64, i64, i64, i64, i64, i64, i64, i64) -> i64;
    for options in landings() {
        let bench = Bench::new();
        let module = load_with(SOURCE, options);
        let (function, many) = callable!(&module, "many", Many);
        let before = many(1, 2, 3, 4, 5, 6, -7, 8);
        let mut probe = bench.probe(&function);
        assert!(probe.is_applied() && !same_as_file(&function));
        assert_eq!(many(1, 2, 3, 4, 5, 6, -7, 8), before);
        let hits = bench.hits();
        assert_eq!(hits.len(), 1);
        assert_eq!((hits[0].function, hits[0].result), (function.address, before));
        assert_eq!(hits[0].args, [1, 2, 3, 4, 5, 6]);
        assert!(hits[0].started_ns > 0 && hits[0].duration_ns < 10_000_000_000 && hits[0].tid > 0);
        probe.undo(&bench.closed()).unwrap();
        assert_eq!(many(1, 2, 3, 4, 5, 6, -7, 8), before);
        assert!(bench.hits().is_empty() && same_as_file(&function));
    }
}

#[test]
fn numbers_with_a_point_and_structures_go_through() {
    type Mixed = extern "C" fn(f64, i64, f64, f32, f64, f64, f64, f64, f64) -> f64;
    let bench = Bench::new();
    let module = load_with(SOURCE, &[]);
    let (mixed_function, mixed) = callable!(&module, "mixed", Mixed);
    let (large_function, large) = callable!(&module, "large", extern "C" fn(i64) -> Big);
    let (both_function, both) = callable!(&module, "both", extern "C" fn(i64) -> Pair);
    let ask = || {
        let bits = mixed(1.5, 2, 3.25, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0).to_bits();
        (bits, large(10), both(20))
    };
    let before = ask();
    assert_eq!(before.2, Pair(20, 40));
    let mut probes =
        [mixed_function, large_function, both_function].map(|function| bench.probe(&function));
    assert_eq!(ask(), before);
    assert_eq!(bench.hits().len(), 3);
    for probe in &mut probes {
        probe.undo(&bench.closed()).unwrap();
    }
    assert_eq!(ask(), before);
}

#[test]
fn calls_within_calls_are_seen_up_to_a_depth_and_then_counted() {
    let bench = Bench::new();
    // Without it the compiler makes a loop of it.
    let module = load_with(SOURCE, &["-fno-optimize-sibling-calls", "-O1"]);
    let (function, deep) = callable!(&module, "deep", extern "C" fn(i64) -> i64);
    let _probe = bench.probe(&function);
    let calls = i64::try_from(collector::DEPTH).unwrap() + 7;
    assert_eq!(deep(calls - 1), calls - 1);
    let mut hits = Vec::new();
    assert_eq!(bench.ring.take(&mut hits), 7);
    assert_eq!(hits.len(), collector::DEPTH);
    // The innermost one that was seen returns first.
    assert!(hits.is_sorted_by_key(|hit| hit.result));
    assert_eq!(deep(2), 2);
    assert_eq!(bench.hits().len(), 3);
}

#[test]
fn a_call_that_ends_by_jumping_to_another_returns_through_both() {
    let bench = Bench::new();
    let module = load_with(SOURCE, &[]);
    let (outer, first) = callable!(&module, "first", extern "C" fn(i64) -> i64);
    let (inner, _) = callable!(&module, "last", extern "C" fn(i64) -> i64);
    let _probes = [bench.probe(&outer), bench.probe(&inner)];
    assert_eq!(first(4), 15);
    let seen: Vec<_> =
        bench.hits().iter().map(|hit| (hit.function, hit.args[0], hit.result)).collect();
    assert_eq!(seen, [(inner.address, 5, 15), (outer.address, 4, 15)]);
}

#[test]
fn a_call_that_is_left_without_a_return_is_forgotten() {
    let bench = Bench::new();
    let module = load_with(SOURCE, &[]);
    let (outer, lands) = callable!(&module, "lands", extern "C" fn(i64) -> i64);
    let (inner, _) = callable!(&module, "leaves", extern "C" fn(i64) -> i64);
    let _probes = [bench.probe(&outer), bench.probe(&inner)];
    for _ in 0..100 {
        assert_eq!(lands(1), 77);
    }
    let hits = bench.hits();
    assert_eq!(hits.len(), 100, "of the outer function only");
    assert!(hits.iter().all(|hit| hit.function == outer.address && hit.result == 77));
    assert_eq!(lands(0), 78);
}

#[test]
fn threads_are_told_apart() {
    let bench = Bench::new();
    let module = load_with(SOURCE, &[]);
    let (function, last) = callable!(&module, "last", extern "C" fn(i64) -> i64);
    let _probe = bench.probe(&function);
    let together = Barrier::new(3);
    std::thread::scope(|scope| {
        for thread in 1..=3 {
            let together = &together;
            scope.spawn(move || {
                together.wait();
                (0..100).for_each(|_| assert_eq!(last(thread), thread * 3));
            });
        }
    });
    let hits = bench.hits();
    assert_eq!(hits.len(), 300);
    for number in 1..=3 {
        let of: Vec<_> = hits.iter().filter(|hit| hit.args[0] == number).collect();
        assert!(of.len() == 100 && of.iter().all(|hit| hit.tid == of[0].tid));
    }
}

#[test]
fn a_probe_lies_over_a_redirect_and_under_one() {
    let bench = Bench::new();
    let (old, new) = (load_with(SOURCE, &[]), load_with(&SOURCE.replace("n * 3", "n * 5"), &[]));
    let (function, last) = callable!(&old, "last", extern "C" fn(i64) -> i64);
    let replacement = |module: &Module| address(&crate::testing::function(module, "last"));
    let mut under = Redirect::new(&function, replacement(&new)).unwrap();
    under.apply(&bench.closed()).unwrap();
    let mut probe = bench.probe(&function);
    assert_eq!(last(2), 10);
    assert_eq!(bench.hits()[0].result, 10);
    assert_eq!(under.undo(&bench.closed()).unwrap_err().code, Code::MemoryDiffers);
    probe.undo(&bench.closed()).unwrap();
    under.undo(&bench.closed()).unwrap();
    probe.apply(&bench.closed()).unwrap();
    assert_eq!((last(2), bench.hits()[0].result), (6, 6));
    let mut over = Redirect::new(&function, replacement(&new)).unwrap();
    over.apply(&bench.closed()).unwrap();
    assert_eq!((last(2), bench.hits().len()), (10, 0));
    over.undo(&bench.closed()).unwrap();
    probe.undo(&bench.closed()).unwrap();
    assert!(same_as_file(&function));
}

#[test]
fn a_function_without_nops_is_not_probed() {
    let bench = Bench::new();
    let module = load_with(SOURCE, &["-fpatchable-function-entry=0"]);
    let refusal = Probe::new(&function(&module, "many"), Arc::clone(&bench.ring)).err().unwrap();
    assert_eq!(refusal.code, Code::NoRoom);
}
