//! Configurations with shards, and the pages that are left when they change.

use super::*;
use crate::config::Config;

const DEMO: &str = include_str!("../../../config/demo.toml");

fn sharded(shards: &str) -> String {
    let plain = ["symbols = [\"AAPL\"]\n", "username = \"quiet\"\n", "password = \"core\"\n"];
    let text = plain.iter().fold(DEMO.to_owned(), |text, line| text.replace(line, ""));
    format!("{text}\n{shards}")
}

fn two() -> String {
    sharded(
        "[[shard]]\nname = \"a\"\nsymbols = [\"AAPL\", \"MSFT\"]\nusername = \"one\"\npassword = \"x\"\n\
         [[shard]]\nname = \"b\"\nsymbols = [\"SPY\"]\nusername = \"two\"\npassword = \"y\"\n\
         server = \"127.0.0.1:9\"\n",
    )
}

fn cores(hot: &str) -> CorePlan {
    CorePlan::from_kernel("0-7", hot).unwrap()
}

#[test]
fn each_shard_is_a_plain_configuration() {
    let path = Path::new("engine.toml");
    assert_eq!(split(DEMO, path, &cores("2-7")).unwrap(), []);
    let shards = split(&two(), path, &cores("2-7")).unwrap();
    let show = |shard: &Shard| {
        let config = Config::parse(&shard.text, path).unwrap();
        let (journal, pages) =
            (config.journal.directory.display(), config.pages.directory.display());
        let (server, host) = (config.order_server, &config.host);
        format!(
            "{:?} {server} {journal} {pages} {:?} {:?}",
            config.symbols, host.cpu, host.journal_cpus
        )
    };
    assert_eq!(
        shards.iter().map(show).collect::<Vec<_>>(),
        [
            "[\"AAPL\", \"MSFT\"] 127.0.0.1:31010 /var/lib/quietcore/journal/a /run/quietcore/engine/a \
             Some(2) Some([4, 5, 6, 7])",
            "[\"SPY\"] 127.0.0.1:9 /var/lib/quietcore/journal/b /run/quietcore/engine/b Some(3) \
             Some([4, 5, 6, 7])",
        ]
    );
    let asked = two().replace("name = \"a\"\n", "name = \"a\"\ncpu = 3\n");
    let shards = split(&asked, path, &cores("2-7")).unwrap();
    assert!(shards[0].text.contains("cpu = 3") && shards[1].text.contains("cpu = 2"));
    assert!(!split(&two(), path, &cores("")).unwrap()[0].text.contains("cpu"));
}

#[test]
fn what_does_not_fit_together_is_named() {
    for (from, to, names) in [
        ("name = \"b\"", "name = \"a\"", "shard.name = a"),
        ("name = \"b\"", "name = \"B/\"", "shard.name = B/"),
        ("[\"SPY\"]", "[\"AAPL\"]", "shard.symbols = AAPL"),
        ("[orders]", "[orders]\nusername = \"quiet\"", "orders.username"),
        ("[host]", "[host]\ncpu = 2", "host.cpu"),
        ("[book]", "[book]\nrestricted = [\"IBM\"]", "book.restricted = \"IBM\""),
        ("password = \"y\"", "passwd = \"y\"", "passwd"),
    ] {
        let text = two().replace(from, to);
        let error = split(&text, Path::new("engine.toml"), &cores("2-7")).unwrap_err();
        assert!(error.to_string().contains(names), "{to}: {error}");
    }
}

#[test]
fn a_kill_switch_stays_on_when_the_shards_change() {
    let temporary = tempfile::tempdir().unwrap();
    let root = temporary.path().join("it");
    let page = |name: &str| ControlPage::open_existing(&root.join(name).join("control")).unwrap();
    prepare_pages(&root, &[]).unwrap();
    prepare_pages(&root, &[]).unwrap();
    assert!(!page("").orders().kill);
    page("").set(Orders { kill: true, ..Orders::default() });
    prepare_pages(&root, &["a", "b"]).unwrap();
    assert!(page("a").orders().kill && page("b").orders().kill && !root.join("control").exists());
    prepare_pages(&root, &["b", "c"]).unwrap();
    assert!(page("c").orders().kill && !root.join("a/control").exists());
    prepare_pages(&root, &[]).unwrap();
    assert!(page("").orders().kill);
}
