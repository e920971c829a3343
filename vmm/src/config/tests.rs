use super::*;

fn parse(text: &str) -> Result<Config, Error> {
    Config::parse(text, Path::new("config.toml"))
}

const WHOLE: &str = r#"
account = "123456789012"

[instance-type."web.small"]
vcpus = 2
memory = "1536M"
ephemeral = { count = 1, size = "20G" }

[instance-type."m5.large"]
vcpus = 1
memory = "64M"

[[prune]]
name = "web-*"
keep = 3
older-than = "30d"

[[prune]]
name = "ci-*"
keep = 0
"#;

#[test]
fn settings_are_what_the_file_says() {
    let config = parse(WHOLE).unwrap();
    assert_eq!(config.account.unwrap().to_string(), "123456789012");
    let days = |days: u64| Duration::from_secs(days * 86_400);
    let policy = |name: &str, keep, older_than| PrunePolicy {
        name: name.to_owned(),
        keep,
        older_than,
    };
    assert_eq!(
        config.prune,
        [policy("web-*", 3, Some(days(30))), policy("ci-*", 0, None)]
    );
    assert_eq!(parse("").unwrap(), Config::default());
}

#[test]
fn own_types_come_before_the_built_in_ones() {
    let config = parse(WHOLE).unwrap();
    let small = config.instance_type("web.small").unwrap();
    assert_eq!((small.vcpus, small.memory_bytes >> 20), (2, 1536));
    assert_eq!(
        small.ephemeral,
        Ephemeral {
            count: 1,
            size_bytes: 20 << 30
        }
    );
    let own = config.instance_type("m5.large").unwrap();
    assert_eq!((own.vcpus, own.memory_bytes >> 20), (1, 64));
    assert_eq!(own.ephemeral.count, 0);
    let built_in = config.instance_type("m5.xlarge").unwrap();
    assert_eq!(built_in.vcpus, 4);
    let all = config.all_instance_types();
    assert_eq!(all[0], own);
    assert_eq!(all[1], small);
    assert_eq!(all.iter().filter(|it| it.name == "m5.large").count(), 1);
    let error = config.instance_type("m5.huge").unwrap_err();
    assert_eq!(
        error.to_string(),
        "Invalid value 'm5.huge' for InstanceType."
    );
}

#[test]
fn every_mistake_is_refused_with_its_line() {
    for (text, line, part) in [
        ("accuont = \"123456789012\"", 1, "unknown field `accuont`"),
        ("\naccount = \"12\"", 2, "(expecting 12 digits)"),
        ("account = 123456789012", 1, "expected a string"),
        (
            "\n\n[instance-type.a]\nvcpus = 1",
            3,
            "missing field `memory`",
        ),
        (
            "[instance-type.a]\nvcpus = 0\nmemory = \"1G\"",
            2,
            "needs a processor",
        ),
        (
            "[instance-type.a]\nvcpus = 1\nmemory = \"1Q\"",
            3,
            "unit 'Q'",
        ),
        (
            "[instance-type.a]\nvcpus = 1\nmemory = \"1K\"",
            3,
            "mebibyte",
        ),
        (
            "[instance-type.a]\nvcpus = 1\nmemory = \"1G\"\nephemeral = { count = 25, size = \"1G\" }",
            4,
            "at most 24",
        ),
        (
            "[instance-type.a]\nvcpus = 1\nmemory = \"1G\"\nephemeral = { count = 1, size = \"1\" }",
            4,
            "4 KiB",
        ),
        ("[[prune]]\nname = \"a\"\nkeep = -1", 3, "invalid value"),
        (
            "[[prune]]\nname = \"a\"\nkeep = 1\nolder-than = \"x\"",
            4,
            "not a duration",
        ),
        ("[[prune]]\nname = \"a\"", 1, "missing field `keep`"),
        ("a = 1\na = 2", 2, "duplicate key"),
        ("[", 1, ""),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("config.toml:{line}: ")),
            "{text}: {error}"
        );
        assert!(error.contains(part), "{text}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn the_file_is_looked_for_where_the_environment_says() {
    let path = |variables: &[(&str, &str)]| {
        let variable = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| PathBuf::from(value))
        };
        path_from(variable, || Some("/home/me".into()))
    };
    let usual = || (PathBuf::from("/home/me/.config/kami/config.toml"), false);
    assert_eq!(path(&[]), usual());
    assert_eq!(
        path(&[("XDG_CONFIG_HOME", "relative"), ("KAMI_CONFIG", "")]),
        usual()
    );
    assert_eq!(
        path(&[("XDG_CONFIG_HOME", "/etc/xdg")]),
        ("/etc/xdg/kami/config.toml".into(), false)
    );
    let both = [("XDG_CONFIG_HOME", "/etc/xdg"), ("KAMI_CONFIG", "my.toml")];
    assert_eq!(path(&both), ("my.toml".into(), true));
}
