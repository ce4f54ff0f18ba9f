//! Expressions with what they make; and what must not happen.

use serde_json::json;

use super::*;

fn made(source: &str, object: &Value) -> Result<String, String> {
    let program = Program::parse(source)?;
    check(&program, &[("self", Type::Dyn)])?;
    let scope = Scope::default().with("self", object);
    let value = program.evaluate(scope, &mut Run::new(u64::MAX)).map_err(|failure| failure.to_string())?;
    Ok(functions::plain(&value).unwrap_or_else(|| match &value {
        Val::List(list) => {
            let items: Vec<String> = list.iter().map(|item| functions::plain(&item).unwrap_or_default()).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.type_name().to_owned(),
    }))
}

/// `EXPRESSION => RESULT`, one a line.
fn table(object: &Value, table: &str) {
    for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (source, expected) = line.split_once(" => ").unwrap();
        let made = made(source.trim(), object).unwrap_or_else(|error| format!("! {error}"));
        assert_eq!(made, expected, "{source}");
    }
}

#[test]
fn the_language() {
    let object = json!({
        "replicas": 3, "name": "web", "ports": [80, 443], "labels": {"app": "web", "a-b": "c"}, "none": null,
        "namespace": "shop", "ratio": 0.5, "items": [{"n": 1}, {"n": 2}],
    });
    table(
        &object,
        "
        self.replicas > 2 && self.name == 'web' => true
        self.replicas == 3.0 => true
        1 + 2 * 3 - 4 / 2 % 3 => 5
        -self.replicas => -3
        7u + 1u => 8
        self.ratio * 2.0 => 1
        'a' + 'b' => ab
        has(self.name) && !has(self.other) => true
        has(self.labels.app) => true
        self.labels['a-b'] + self.labels.a__dash__b => cc
        self.__namespace__ => shop
        self.other => ! no such key: other
        self.ports[2] => ! index out of bounds: 2
        self.ports.all(p, p > 79) => true
        self.ports.exists(p, p == 443) => true
        self.ports.exists_one(p, p > 80) => true
        self.ports.map(p, p + 1) => [81, 444]
        self.ports.map(p, p > 80, p * 2) => [886]
        self.ports.filter(p, p > 80) => [443]
        self.items.map(i, i.n) => [1, 2]
        self.labels.all(k, self.labels[k].size() > 0) => true
        80 in self.ports => true
        'app' in self.labels => true
        self.ports + [8080] => [80, 443, 8080]
        self.none == null => true
        self.?other.orValue('x') => x
        self.?name.orValue('x') => web
        self.?labels.?app.hasValue() => true
        self.labels[?'zz'].hasValue() => false
        optional.of(1).value() => 1
        self.?replicas.optMap(r, r * 2).orValue(0) => 6
        self.?other.optMap(r, r * 2).hasValue() => false
        self.?labels.optFlatMap(l, l.?app).value() => web
        optional.none().hasValue() => false
        [1, ?optional.none(), 2] => [1, 2]
        {'a': 1}.a => 1
        {'a': 1, 'a': 2}.size() => ! Failed with repeated key
        1 / 0 => ! division by zero
        9223372036854775807 + 1 => ! integer overflow
        true || 1 / 0 == 1 => true
        1 / 0 == 1 || true => true
        1 / 0 == 1 && false => false
        [1, 0].exists(d, 1 / d == 1) => true
        [0, 1].all(d, 1 / d == 1) => ! division by zero
        self.replicas > 1 ? 'many' : 'one' => many
        type(1) == int => true
        [1, 2] == [1, 2] && {'a': 1} == {'a': 1} => true
        'b' > 'a' => true
        ",
    );
}

#[test]
fn the_libraries() {
    table(
        &json!({}),
        "
        'hello'.size() + size([1, 2]) + size({'a': 1}) => 8
        'hello'.startsWith('he') && 'hello'.endsWith('lo') && 'hello'.contains('ell') => true
        'abc123'.matches('^[a-z]+[0-9]+$') => true
        'abc 123 45'.find('[0-9]+') => 123
        'abc 123 45'.findAll('[0-9]+') => [123, 45]
        'tacocat'.indexOf('ac') => 1
        'tacocat'.lastIndexOf('a') => 5
        'tacocat'.indexOf('z') => -1
        'tacocat'.substring(4) + 'tacocat'.substring(0, 4) => cattaco
        'tacocat'.substring(8) => ! index out of range: 8
        'a,b,c'.split(',') => [a, b, c]
        'a,b,c'.split(',', 2) => [a, b,c]
        ['a', 'b'].join('-') => a-b
        ' Ab '.trim().lowerAscii() + 'x'.upperAscii() => abX
        'aba'.replace('a', 'c') + 'aba'.replace('a', 'c', 1) => cbccba
        'hello'.charAt(1) => e
        '%s has %d of %.2f'.format(['web', 3, 1.5]) => web has 3 of 1.50
        [1, 2, 3].sum() + [4, 1].min() + [4, 1].max() => 11
        [1, 2].isSorted() && !['b', 'a'].isSorted() => true
        [1, 2, 1].lastIndexOf(1) => 2
        sets.contains([1, 2, 3], [2]) && sets.intersects([1], [1, 2]) && sets.equivalent([1, 2], [2, 1, 1]) => true
        int('42') + int(1.9) + int(3u) => 46
        string(1.0) + string(true) + string(b'x') => 1truex
        duration('1h30m') > duration('89m') => true
        string(duration('90s')) => 90s
        duration('1h').getMinutes() => 60
        timestamp('2024-02-29T12:30:00Z') + duration('24h') == timestamp('2024-03-01T12:30:00Z') => true
        timestamp('2024-02-29T12:30:00Z').getFullYear() => 2024
        timestamp('2024-02-29T23:30:00Z').getDate('+01:00') => 1
        timestamp('2024-02-29T23:30:00Z').getDayOfWeek() => 4
        quantity('1Gi').isGreaterThan(quantity('500Mi')) => true
        quantity('1.5').add(quantity('500m')).asInteger() => 2
        isQuantity('1x') => false
        quantity('1k').compareTo(quantity('1000')) => 0
        ip('10.0.0.1').family() => 4
        isIP('10.0.0.256') || isIP('::ffff:10.0.0.1') => false
        cidr('10.0.0.0/8').containsIP('10.1.2.3') => true
        cidr('10.0.0.0/8').containsCIDR('10.2.0.0/16') => true
        string(cidr('10.1.2.3/8').masked()) => 10.0.0.0/8
        ip.isCanonical('::1') && ip('::1').isLoopback() => true
        url('https://user@example.com:8080/a%20b?x=1&y=2').getHost() => example.com:8080
        url('https://example.com:8080/a%20b?x=1').getEscapedPath() => /a%20b
        url('https://[::1]:80/').getHostname() => ::1
        url('https://e.com/?k=a&k=b').getQuery()['k'] => [a, b]
        isURL('/path') && !isURL('not a url') => true
        ",
    );
}

#[test]
fn what_is_wrong_is_said_before_anything_runs() {
    let schema = structural::Structural::of_objects(&json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "replicas": {"type": "integer"}, "name": {"type": "string"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "at": {"type": "string", "format": "date-time"},
            "either": {"x-kubernetes-int-or-string": true},
            "map": {"type": "object", "additionalProperties": {"type": "integer"}},
        }},
    }}));
    let told = |source: &str| match Program::parse(source) {
        Ok(program) => match check(&program, &[("self", Type::of(&schema).unwrap())]) {
            Ok(type_) => type_.to_string(),
            Err(problem) => problem,
        },
        Err(problem) => problem.lines().next().unwrap_or_default().to_owned(),
    };
    for (source, expected) in [
        ("self.spec.replicas + 1", "int"),
        ("self.metadata.name.startsWith('a')", "bool"),
        ("self.metadata.labels", "undefined field 'labels'"),
        ("self.spec.replica", "undefined field 'replica'"),
        ("self.spec.free.x", "undefined field 'x'"),
        ("self.spec.replicas == 'x'", "found no matching overload for '_==_' applied to '(int, string)'"),
        ("self.spec.name + 1", "found no matching overload for '_+_' applied to '(string, int)'"),
        ("self.spec.name.startsWith(1)", "found no matching overload for 'startsWith' applied to 'string.(int)'"),
        ("self.spec.tags.map(t, t.size())", "list(int)"),
        ("self.spec.tags.all(t, t > 1)", "found no matching overload for '_>_' applied to '(string, int)'"),
        ("self.spec.map['a'] > 1", "bool"),
        ("self.spec.at > timestamp('2024-01-01T00:00:00Z')", "bool"),
        ("self.spec.either == 1 || self.spec.either == '1'", "bool"),
        ("self.spec.?replicas.orValue(1)", "int"),
        ("other.spec", "undeclared reference to 'other' (in container '')"),
        ("self.spec.name.reverse()", "undeclared reference to 'reverse' (in container '')"),
        (
            "self.spec.name.all(x, true)",
            "expression of type 'string' cannot be range of a comprehension (must be list, map, or dynamic)",
        ),
    ] {
        assert_eq!(told(source), expected, "{source}");
    }
    assert!(told("self.spec.").starts_with("ERROR: <input>:1:"), "{}", told("self.spec."));
}

#[test]
fn nothing_costs_more_than_it_may() {
    let object = json!({"list": vec!["some text of a length"; 1_000]});
    let run = |source: &str| {
        let program = Program::parse(source).unwrap();
        program.evaluate(Scope::default().with("self", &object), &mut Run::new(u64::MAX)).map(|value| value.type_name())
    };
    for source in [
        "self.list.all(a, self.list.all(b, self.list.all(c, a == b || b != c)))",
        "self.list.map(a, self.list.map(b, a + b)).size() > 0",
        "self.list.all(a, self.list.all(b, !a.matches('(a+)+' + b)))",
        "[self.list].map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a)\
         .map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a).size() > 0",
        "['xxxxxxxxxxxxxxxx'].map(a, a.replace('x', 'xxxxxxxxxxxxxxxxxxxxxxxxxx')).map(a, a.replace('x', a))\
         .map(a, a.replace('x', a)).map(a, a.replace('x', a)).size() > 0",
        "true || self.list.all(a, self.list.all(b, self.list.exists(c, false)))",
    ] {
        let outcome = run(source);
        assert!(outcome == Err(Failure::CallCost) || source.starts_with("true"), "{source}: {outcome:?}");
    }
    let spent = Program::parse("self.list.size() > 0").unwrap();
    let outcome = spent.holds(Scope::default().with("self", &object), &mut Run::new(2));
    assert_eq!(outcome, Err(Failure::TotalCost));
}
