use proptest::prelude::*;

use super::*;

const FILL: Fill<'_> = Fill { revision: "digits-b", stable: "digits-a", name: "digits", namespace: "team-a" };
const BOUND: Bound<'_> = Bound { label: "namespace", value: "team-a" };

fn prepared(text: &str) -> Result<Query, String> {
    prepare(text, &FILL, Some(BOUND)).map_err(|error| error.to_string())
}

#[test]
fn placeholders_are_filled_in() {
    let query = prepared(r#"up{r="$revision",s="$stable",n="$name",k="$namespace",e=~"a$"}"#).unwrap();
    assert_eq!(
        query.value,
        r#"up{e=~"a$",k="team-a",n="digits",namespace="team-a",r="digits-b",s="digits-a"}"#
    );
    assert_eq!(
        prepared("up{r=\"$revisoin\"}").unwrap_err(),
        "there is no $revisoin; there are $revision, $stable, $name and $namespace"
    );
    let bad = Fill { revision: "x\"} or up{", ..FILL };
    assert!(matches!(prepare("up{r=\"$revision\"}", &bad, None), Err(QueryError::Name(_))));
}

#[test]
fn every_selector_is_bound_to_the_namespace() {
    let texts = [
        "up",
        "sum(rate(a[1m])) / sum(rate(b[1m]))",
        "histogram_quantile(0.99, sum by (le) (rate(a_bucket[5m])))",
        "max_over_time(sum(rate(a[1m]))[10m:30s])",
        "a and on (pod) b unless c",
        "-a",
        "(a > bool 1) * on (x) group_left (y) b",
        "absent(a)",
        "topk(scalar(a), b)",
        "quantile_over_time(scalar(c), a[5m])",
        "a offset 5m",
        "a @ 1609746000",
        "{__name__=~\"a.*\"}",
        "clamp_max(a, scalar(b))",
        "label_replace(a, \"x\", \"$1\", \"y\", \"(.*)\")",
        "count_values(\"v\", a)",
        "vector(1)",
        "1",
        "a{namespace=\"team-a\"}",
        "a{namespace=~\"team-.*\"}",
    ];
    for text in texts {
        let query = prepared(text).unwrap();
        let mut again = parse(&query.value).unwrap();
        let selectors = bound_selectors(&mut again);
        assert!(selectors.iter().all(|bound| *bound), "{text}: {}", query.value);
        assert_eq!(selectors.len(), text.matches(['a', 'b', 'c', 'u', '_']).count().min(selectors.len()));
        if let Some(age) = &query.age {
            let mut age = parse(age).unwrap_or_else(|error| panic!("{age}: {error}"));
            assert!(bound_selectors(&mut age).iter().all(|bound| *bound), "{text}");
        }
    }
    for text in ["a{namespace=\"team-b\"}", "sum(a) + sum(rate(b{namespace!=\"team-a\"}[1m]))"] {
        let error = prepared(text).unwrap_err();
        assert!(error.contains("asks for another namespace"), "{error}");
    }
}

/// Of each selector, whether it is bound.
fn bound_selectors(expr: &mut Expr) -> Vec<bool> {
    // A walk that finds something to add would change the text.
    let before = expr.to_string();
    let mut walk = Walk { bound: Some(BOUND), fresh: BTreeSet::new(), selectors: 0 };
    walk.visit(expr, true).unwrap();
    vec![before == expr.to_string(); walk.selectors]
}

#[test]
fn what_is_no_number_of_this_namespace_is_refused_with_what_to_do() {
    let cases = [
        ("sum(rate(a[1m])", "it is not PromQL"),
        ("", "it is not PromQL"),
        ("a[5m]", "a range needs a function such as rate()"),
        ("\"text\"", "its result is a string"),
        ("info(a)", "info() reads series that the query does not name"),
        ("a{x=\"1\" or y=\"2\"}", "`or` between the labels"),
        ("foo(a)", "it is not PromQL"),
    ];
    for (text, sentence) in cases {
        let error = prepared(text).unwrap_err();
        assert!(error.contains(sentence), "{text}: {error}");
    }
    let many = ["a{x=~\"b\"}"; 7].join(" + ");
    assert!(prepared(&many).unwrap_err().contains("more than 6 regular expressions"));
    let many = ["a"; 17].join(" + ");
    assert!(prepared(&many).unwrap_err().contains("more than 16 selectors"));
}

#[test]
fn the_age_is_that_of_what_is_selected_now() {
    let age = |text: &str| prepared(text).unwrap().age;
    assert_eq!(
        age("rate(a[1m])").unwrap(),
        r#"time() - min(label_replace(max(timestamp(a{namespace="team-a"})),"n","0","",""))"#
    );
    assert_eq!(
        age("rate(a[1h])").unwrap(),
        r#"time() - min(label_replace(max(max_over_time(timestamp(a{namespace="team-a"})[3600s:36s])),"n","0","",""))"#
    );
    let two = age("a / b").unwrap();
    assert!(two.contains(" or ") && two.contains("\"n\",\"1\""), "{two}");
    for text in ["1", "a offset 5m", "a @ 1609746000", "max_over_time(a[10m:30s] offset 1h)"] {
        assert_eq!(age(text), None, "{text}");
    }
}

#[test]
fn neither_absurd_numbers_nor_depth_end_the_process() {
    for text in [
        "up offset 1e30",
        "max_over_time(up[1e30:1m])",
        "up offset 1e999",
        "rate(up[nan])",
        "rate(up[99999999999999999999y])",
    ] {
        assert!(prepared(text).is_err(), "{text}");
    }
    for text in ["-".repeat(3000) + "1", "(".repeat(2000) + "1" + &")".repeat(2000), "1+".repeat(2000) + "1"]
    {
        // That it comes back is what counts.
        let _ = prepared(&text);
    }
    assert!(prepared(&"x".repeat(5000)).unwrap_err().contains("longer than 4096 bytes"));
}

proptest! {
    /// Whatever is written: it is refused, or what is sent reads as bound.
    #[test]
    fn nothing_unbound_is_sent(text in r#"[ab]\{?(namespace(=|!=|=~)"(team-a|team-b|.*)")?\}?( (or|and|\+) [ab]\{?(x="[a-z"\\]*")?\}?)?(\[5m\])?"#) {
        if let Ok(query) = prepare(&text, &FILL, Some(BOUND)) {
            let mut again = parse(&query.value).unwrap();
            prop_assert!(bound_selectors(&mut again).iter().all(|bound| *bound), "{}", query.value);
            prop_assert!(query.value.contains("namespace=\"team-a\""));
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in ".{0,80}") {
        let _ = check(&text);
    }
}
