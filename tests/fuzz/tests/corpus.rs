//! Replays the corpus: what fuzzing found once stays mended (S40).

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use u7s_fuzz::TARGETS;

    /// The largest file of the corpus, bytes: it is read by people, too.
    const MOST: usize = 4096;

    fn corpus() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
    }

    fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let files = fs::read_dir(corpus().join(target)).expect("every target has a corpus");
        let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        paths.sort();
        paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    }

    /// This thread's time on a processor, since its begin; what others run does not count.
    fn seconds() -> f64 {
        let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        text.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
    }

    #[test]
    fn s40_every_input_of_the_corpus_is_parsed_without_a_panic_and_soon() {
        for target in TARGETS {
            let inputs = inputs(target.name);
            assert!(!inputs.is_empty(), "{}: the corpus is empty", target.name);
            for (path, input) in inputs {
                // The name of an input that fails is the last that is printed.
                println!("{}", path.display());
                let began = seconds();
                (target.run)(&input);
                let took = seconds() - began;
                // Seen: a thousandth of that. A machine that emulates another is twenty times slower.
                assert!(took < 5.0, "{}: {took} s", path.display());
            }
        }
    }

    #[test]
    fn the_corpus_is_small_and_has_no_strangers() {
        let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
        let there =
            fs::read_dir(corpus()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert_eq!(there.collect::<BTreeSet<String>>(), names);
        for name in names {
            for (path, input) in inputs(&name) {
                assert!(input.len() <= MOST, "{}: {} bytes", path.display(), input.len());
            }
        }
    }

    /// How many places of an input are tried: all of the short ones.
    const PLACES: usize = 64;

    /// Cut, changed by a bit, and doubled: what a fuzzer tries first.
    #[test]
    fn s40_neighbours_of_the_corpus_are_parsed_too() {
        for target in TARGETS {
            for (path, input) in inputs(target.name) {
                println!("{}", path.display());
                for at in (0..input.len()).step_by(input.len() / PLACES + 1) {
                    let mut changed = input.clone();
                    changed[at] ^= 1 << (at % 8);
                    (target.run)(&changed);
                    (target.run)(&input[..at]);
                }
                (target.run)(&[&input[..], &input].concat());
            }
        }
    }
}
