"""The words that count, by family: what a person would name first when asked how such a request is worded.

A look-up table, not a model: each word belongs to at most one family, families are short, and no word decides anything alone
(``score`` says how much each family may move). Kept to words whose meaning hardly depends on context. English is covered
best; the other big languages have the words that name a task. Scripts without spaces are matched by substring, so their
entries are whole stems. Trap: a word in two families would count for the one that comes later; a test forbids it.
"""

from typing import Final

_FAMILIES: Final[dict[str, str]] = {
    "greeting": """
        hi hello hey hiya howdy thanks thank thx bye goodbye cheers welcome
        hola gracias bonjour merci salut hallo danke tschüss ciao grazie olá obrigado obrigada привет спасибо здравствуйте
        merhaba selam salam""",
    "extract": """
        extract extracts extracting extraction identify pull parse parsing entities entity mentioned
        retrieve fetch locate named spans ner fields
        extraer extraiga extrae extraire extrais extrahiere extrahieren estrai extrair извлеки извлечь""",
    "classify": """
        classify classifies classification categorize categorise category categories label labels labelled sentiment spam
        positive negative neutral topic intent
        clasifica clasificar classifica classer classe klassifiziere klassifizieren классифицируй категория""",
    "transform": """
        translate translation rewrite reword rephrase paraphrase convert reformat transform uppercase lowercase capitalize
        proofread grammar punctuation spelling formal informal tone transcribe
        traduce traducir traduis traduire traduzca übersetze übersetzen traduci traduzir переведи перевести""",
    "compress": """
        summarize summarise summary summaries summarizing tldr condense shorten abridge recap gist digest synopsis
        resumir resumen résume résumer résumé zusammenfassen zusammenfassung riassumi riassunto кратко
        резюмируй""",
    "safety": """
        moderate moderation toxic toxicity harmful harassment hateful unsafe jailbreak abusive slur violence violent weapon
        weapons bomb explosive explosives poison kill murder suicide hack malware ransomware phishing steal stealing
        illegal drugs cocaine meth stalk nsfw""",
    "code": """
        code coding function functions method python java javascript typescript golang rust kotlin swift ruby php bash sql
        query regex regexp html css api endpoint script compile compiler algorithm class classes refactor implement
        implementation unittest pytest docker dockerfile kubernetes git cli json yaml pandas numpy react django flask
        string array loop recursion recursive dictionary linked
        código funcion función programme fonction programm funktion codice funzione код функция функцию""",
    "debug": """
        bug bugs debug debugging stacktrace traceback exception exceptions segfault crash crashes crashing deadlock
        deadlocks race races leak leaks leaking intermittent intermittently flaky nondeterministic concurrency concurrent
        mutex starvation livelock regression corrupts corruption heap oom hang hangs bisect profiler postmortem""",
    "maths": """
        calculate compute solve equation equations integral integrate derivative differentiate probability percent
        percentage sum average median fraction fractions polynomial matrix matrices eigenvalue vector triangle circle area
        perimeter angle arithmetic algebra geometry calculus modulo prime primes factorial ratio total altogether remainder
        dollars miles
        calcula calcular ecuación calculer équation berechne berechnen gleichung calcola equazione вычисли уравнение""",
    "proof": """
        prove proof proofs theorem lemma corollary induction contradiction rigorous rigorously iff bijection homomorphism
        topology convergence converges bounded compact asymptotic np-hard conjecture axioms
        demuestra demostrar démontrer prouver beweise beweisen dimostra докажи доказать""",
    "plan": """
        plan planning roadmap schedule milestones itinerary migrate migration rollout phases phased stages strategy
        timeline workflow prerequisites dependencies prioritize budget logistics orchestrate coordinate
        planifica planificar planifier planen pianifica спланируй план""",
    "design": """
        design architect architecture distributed scalable scalability consensus replication replicated sharding sharded
        fault-tolerant failover throughput consistency linearizable raft paxos multi-region microservices idempotent
        partition partitions quorum crdt eventual backpressure exactly-once tradeoff tradeoffs trade-offs trade-off
        diseña concevoir entwirf progetta спроектируй""",
    "critique": """
        review critique criticize evaluate evaluation feedback assess assessment flaws weaknesses strengths pros cons argue
        argument arguments counterarguments improve improvements audit refute rebut rank
        critica critiquer bewerte bewerten kritisiere valuta оцени""",
    "creative": """
        story stories poem poems poetry haiku limerick song lyrics slogan novel characters dialogue imagine
        screenplay fiction fictional essay blog joke jokes riddle metaphor tagline caption creative fairy
        cuento poema histoire poème geschichte gedicht storia poesia рассказ стихотворение""",
    "explain": """
        explain explains explanation why describe understand difference differences compare comparison contrast
        implications analyze analyse analysis cause causes effect mechanism intuition
        explica explicar expliquer explique erkläre erklären spiega объясни почему""",
    "logic": """
        logic logical puzzle deduce infer therefore premise premises conclusion syllogism implies knights knaves true false
        valid invalid odd sequence pattern exactly either neither taller older younger""",
    "constraint": """
        must should only without ensure avoid require requires required constraint constraints satisfy satisfies least most
        unless cannot always never strictly maximum minimum limit each every guarantee guarantees""",
    "sequence": """
        then next after afterwards finally first second third subsequently before once lastly followed""",
    "depth": """
        optimal optimize optimise optimality efficient complexity advanced comprehensive detailed thorough thoroughly in-depth
        expert nuanced novel-research state-of-the-art formally derive derivation verify justify complete end-to-end
        production zero-downtime edge multi-step carefully precisely""",
    "brief": """
        brief briefly short quick quickly simple simply basic concise tiny small easy one-line""",
    "write": """
        write compose draft generate escribe escribir écris écrire schreibe schreiben scrivi escreva напиши""",
    "vague": """
        it this that these those something thing things stuff fix help again continue work works working broken wrong""",
    "filler": """
        ok okay yes yep no nope please can could would you
        me my i the a an to for with do is make need want now up out just about same""",
}

FAMILY: Final[dict[str, str]] = {word: name for name, words in _FAMILIES.items() for word in words.split()}
"""Lower-case word -> family."""

PHRASES: Final[tuple[tuple[str, str], ...]] = (
    ("step by step", "depth"),
    ("step-by-step", "depth"),
    ("root cause", "debug"),
    ("race condition", "debug"),
    ("memory leak", "debug"),
    ("stack trace", "debug"),
    ("pros and cons", "critique"),
    ("how do ", "explain"),
    ("how does", "explain"),
    ("how would", "explain"),
    ("how many", "maths"),
    ("how much", "maths"),
    ("tl;dr", "compress"),
    ("key points", "compress"),
    ("main points", "compress"),
    ("named entit", "extract"),
    ("which of the following", "logic"),
    ("one of the following", "classify"),
    ("translate to", "transform"),
    ("into french", "transform"),
    ("into english", "transform"),
    ("into spanish", "transform"),
    ("into german", "transform"),
    ("failure mode", "design"),
    ("high availability", "design"),
    ("system design", "design"),
    ("such that", "proof"),
    ("for all ", "proof"),
    ("if and only if", "proof"),
    ("there exists", "proof"),
    ("unit test", "code"),
)
"""Lower-case phrase -> family; each counts once."""

STEMS: Final[tuple[tuple[str, str], ...]] = (
    ("你好", "greeting"),
    ("谢谢", "greeting"),
    ("こんにちは", "greeting"),
    ("ありがとう", "greeting"),
    ("안녕", "greeting"),
    ("提取", "extract"),
    ("抽出", "extract"),
    ("추출", "extract"),
    ("分类", "classify"),
    ("分類", "classify"),
    ("분류", "classify"),
    ("情感", "classify"),
    ("翻译", "transform"),
    ("翻訳", "transform"),
    ("번역", "transform"),
    ("改写", "transform"),
    ("总结", "compress"),
    ("摘要", "compress"),
    ("要約", "compress"),
    ("요약", "compress"),
    ("代码", "code"),
    ("函数", "code"),
    ("コード", "code"),
    ("関数", "code"),
    ("코드", "code"),
    ("함수", "code"),
    ("死锁", "debug"),
    ("计算", "maths"),
    ("計算", "maths"),
    ("방정식", "maths"),
    ("方程", "maths"),
    ("证明", "proof"),
    ("証明", "proof"),
    ("증명", "proof"),
    ("计划", "plan"),
    ("計画", "plan"),
    ("계획", "plan"),
    ("设计", "design"),
    ("設計", "design"),
    ("설계", "design"),
    ("分布式", "design"),
    ("分散システム", "design"),
    ("评价", "critique"),
    ("评审", "critique"),
    ("批評", "critique"),
    ("故事", "creative"),
    ("写诗", "creative"),
    ("物語", "creative"),
    ("이야기", "creative"),
    ("为什么", "explain"),
    ("解释", "explain"),
    ("説明", "explain"),
    ("설명", "explain"),
    ("必须", "constraint"),
    ("然后", "sequence"),
    ("接着", "sequence"),
)
"""Stems of scripts written without spaces -> family; looked for only where such a script occurs."""
