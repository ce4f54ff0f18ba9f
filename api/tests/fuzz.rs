//! The fuzz targets' entries (`fuzz/entries.rs`) in every test run: known bodies, mutated from a seed, and bombs. Nothing
//! panics, and nothing takes more memory than its bound. `SEED=` and `ROUNDS=` go further.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use serde_json::Value;

#[path = "../fuzz/entries.rs"]
mod entries;

/// How much an entry may hold at one time: what a YAML body may unfold to, and its like again beside it.
const HELD_BYTES_MAX: usize = 400 << 20;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting what this thread holds.
struct Counting;

// SAFETY: every call goes to the system's allocator as it came; the counters are plain cells of this thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = HELD.try_with(|held| {
            held.set(held.get() + layout.size());
            let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
        });
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        let _ = HELD.try_with(|held| held.set(held.get().saturating_sub(layout.size())));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound as u64).expect("the bound fits")
    }
}

const BODIES: &[&str] = &[
    r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"a","image":"i","resources":{"limits":{"cpu":"100m"}},"ports":[{"containerPort":80}]}],"volumes":[{"name":"v","configMap":{"name":"c"}}]}}"#,
    r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a"},"spec":{"replicas":1,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"a","image":"i"}]}}}}"#,
    r#"{"kind":"CustomResourceDefinition","metadata":{"name":"tabs.example.com"},"spec":{"group":"example.com","scope":"Namespaced","names":{"plural":"tabs","singular":"tab","kind":"Tab","listKind":"TabList"},"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","x-kubernetes-validations":[{"rule":"self.n < 3","message":"m"}],"properties":{"n":{"type":"integer","default":1,"minimum":0},"l":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["k"],"items":{"type":"object","required":["k"],"properties":{"k":{"type":"string","pattern":"^[a-z]+$"}}}}}}}}},"additionalPrinterColumns":[{"name":"N","type":"integer","jsonPath":".spec.n"}]}]}}"#,
    r#"[{"op":"add","path":"/metadata/labels/z","value":"1"},{"op":"copy","from":"/spec","path":"/metadata/annotations"},{"op":"test","path":"/kind","value":"Pod"},{"op":"remove","path":"/spec/volumes/0"},{"op":"move","from":"/spec/containers/1","path":"/spec/containers/0"},{"op":"replace","path":"/spec/containers/0/name","value":"q"}]"#,
    r#"{"metadata":{"labels":{"x":null,"n":"1"},"$deleteFromPrimitiveList/finalizers":["f/a"]},"spec":{"$setElementOrder/containers":[{"name":"b"},{"name":"a"}],"containers":[{"name":"b","$patch":"delete"},{"name":"a","env":[{"name":"E","value":"1"}]}],"volumes":[{"name":"v","$retainKeys":["name","secret"],"secret":{"secretName":"s"}}]}}"#,
    "a: &x [1, 2]\nb: *x\nc: {d: 'e', f: [true, null, 1.5]}\n---\ng: |\n  text\n",
    "self.spec.containers.all(c, c.name.matches('^[a-z]$') && size(c.name) < 5) || has(self.metadata.labels) && self.?a.orValue([1, 2].map(x, x * 2)) == {'k': 1u}",
    "k8s\0\n\t\n\u{2}v1\u{12}\u{3}Pod\u{12}\r\n\u{3}\n\u{1}a\u{12}\u{6}\u{12}\u{4}\n\u{2}aa",
    "/apis/apps/v1/namespaces/default/deployments/web/scale/",
    "app in (a, b),!c,d!=e,metadata.name=x,spec.nodeName!=n",
    "1.5Gi",
    "2024-01-01T00:00:00.5+01:00",
    "1h30m5.5s",
    ".spec.list[?(@.a==\"b\")].c",
];

/// Pieces that decoders care about.
const PIECES: &[&str] = &[
    "{", "}", "[", "]", "\"", ",", ":", "null", "-1", "1e999", "\\u0000", "\u{fffd}", "&a", "*a", "<<", "$patch", "/-",
    "~1", "..", "(", ")",
];

fn mutated(random: &mut Random, body: &str) -> Vec<u8> {
    let mut bytes = body.as_bytes().to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len().max(1)).min(bytes.len());
        let end = (at + random.below(12)).min(bytes.len());
        match random.below(5) {
            0 if at < bytes.len() => bytes[at] = u8::try_from(random.below(256)).unwrap_or(0),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            3 => {
                let piece = PIECES[random.below(PIECES.len())].bytes();
                bytes.splice(at..at, piece);
            }
            _ => {
                let other = BODIES[random.below(BODIES.len())].as_bytes();
                let from = random.below(other.len());
                let piece = other[from..(from + 20).min(other.len())].to_vec();
                bytes.splice(at..end, piece);
            }
        }
    }
    bytes
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs an entry and answers the most that it held.
fn held(entry: fn(&[u8]), bytes: &[u8]) -> usize {
    let before = HELD.with(Cell::get);
    MOST.with(|most| most.set(before));
    entry(bytes);
    MOST.with(Cell::get) - before
}

#[test]
fn mutated_bodies_are_refused_politely() {
    let (first, rounds) = (number("SEED", 0), number("ROUNDS", 300));
    for (name, entry) in entries::ENTRIES {
        for seed in first..first + rounds {
            let mut random = Random(seed);
            let body = BODIES[random.below(BODIES.len())];
            let bytes = mutated(&mut random, body);
            let outcome = std::panic::catch_unwind(|| held(*entry, &bytes));
            let most = outcome
                .unwrap_or_else(|_| panic!("{name} panics with SEED={seed}: {:?}", String::from_utf8_lossy(&bytes)));
            assert!(most < HELD_BYTES_MAX, "{name} held {most} bytes with SEED={seed}");
        }
    }
}

#[test]
fn whole_bodies_go_through() {
    for (_, entry) in entries::ENTRIES {
        BODIES.iter().for_each(|body| entry(body.as_bytes()));
    }
    assert!(BODIES[..5].iter().all(|body| serde_json::from_str::<Value>(body).is_ok()));
}

#[test]
fn bombs_take_no_more_than_they_may() {
    let laughs = (0..20).map(|n| format!("a{n}: &a{n} [{}]\n", format!("*a{}, ", n - 1i32).repeat(9)));
    let copies: Vec<String> = (0..5_000)
        .map(|n| format!(r#"{{"op":"copy","from":"/spec","path":"/metadata/annotations/k{n}"}},{{"op":"copy","from":"/metadata","path":"/spec/k{n}"}}"#))
        .collect();
    let bombs = [
        "[".repeat(1 << 20),
        r#"{"a":"#.repeat(200_000),
        format!("a-1: &a-1 [x]\n{}", laughs.collect::<String>()),
        "- ".repeat(100_000),
        format!("[{}]", copies.join(",")),
        format!("[{}]", vec![r#"{"op":"test","path":"/kind","value":"Pod"}"#; 20_000].join(",")),
        format!(r#"{{"spec":{}1{}}}"#, r#"{"x":"#.repeat(98), "}".repeat(98)),
        format!("k8s\0{}", "\u{12}\u{7f}".repeat(1_000)),
        format!(
            r#"{{"kind":"CustomResourceDefinition","spec":{{"versions":[{{"schema":{{"openAPIV3Schema":{{"pattern":"{}"}}}}}}]}}}}"#,
            "(a{1,1000}){1,1000}"
        ),
        "a.".repeat(8_000),
        "(".repeat(16_000),
    ];
    for (name, entry) in entries::ENTRIES {
        for bomb in &bombs {
            let most = held(*entry, bomb.as_bytes());
            let shown = &bomb[..bomb.len().min(40)];
            assert!(most < HELD_BYTES_MAX, "{name} held {most} bytes for {shown:?}");
        }
    }
}

#[test]
fn deep_expressions_fit_the_stack_of_a_servers_thread() {
    const STACK_BYTES: usize = 2 << 20;
    let bombs = [
        format!("{}1{}", "(".repeat(5_000), ")".repeat(5_000)),
        format!("{}1", "1+".repeat(5_000)),
        format!("{}1", "1+".repeat(900)),
        format!("a{}", ".b".repeat(900)),
        format!("{}true", "!".repeat(900)),
        format!("{}1{}", "[".repeat(400), "]".repeat(400)),
        format!("{}1", "true?1:".repeat(300)),
        "[1]".to_owned() + &".map(x, x)".repeat(300),
        "self.size()".repeat(1_400),
    ];
    for bomb in bombs {
        let run = move || {
            let Ok(program) = api::cel::Program::parse(&bomb) else { return };
            let one = Value::from(1);
            let scope = api::cel::Scope::default().with("self", &one).with("a", &one);
            let _ = (program.problem(&["self", "a"], "bool"), program.holds(scope, &mut api::cel::Run::new(1_000_000)));
        };
        let ran = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(run).unwrap().join();
        assert!(ran.is_ok());
    }
}
