//! What the pages show of the configuration is configuration.

use std::path::{Path, PathBuf};

use super::{Config, Source, limits};

#[test]
fn every_piece_of_configuration_that_the_pages_show_can_be_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let of = |folder: PathBuf| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let pages =
        of(root.to_owned()).chain(of(root.join("docs"))).filter(|path| path.extension().is_some_and(|end| end == "md"));
    let mut shown = 0;
    let mut wrong = Vec::new();
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for block in text.split("```toml\n").skip(1) {
            shown += 1;
            let block = block.split("```").next().unwrap().replace("$CREDENTIALS_DIRECTORY", "/run/credentials");
            let source = Source::new(&page, block.clone());
            let read = if block.contains("[[prices]]") {
                source.parse::<limits::PriceFile>().map(drop)
            } else {
                source.parse::<Config>().map(drop)
            };
            wrong.extend(read.err().map(|error| format!("{error}\n{block}")));
        }
    }
    assert!(shown >= 10, "only {shown} pieces were found");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
